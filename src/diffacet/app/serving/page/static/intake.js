/** How a history is filled otherwise than by search: a held-out user, pasted ids; and how it is emptied. */

import { byId, counted, el } from "./dom.js";

/** @typedef {import("./types.js").Example} Example */
/** @typedef {import("./state.js").Store} Store */

/**
 * @param {Example[]} examples
 * @param {number} at
 * @returns {Partial<import("./types.js").State>} what shows that user
 */
export function userState(examples, at) {
  return { history: examples[at].history.map((item) => item.item_id), user: at, interest: null };
}

export class Intake {
  /** @param {Store} store @param {Example[]} examples @param {(text: string) => void} say */
  constructor(store, examples, say) {
    this.store = store;
    this.examples = examples;
    this.say = say;
    this.users = /** @type {HTMLSelectElement} */ (byId("users"));
    this.form = /** @type {HTMLFormElement} */ (byId("paste"));
    this.ids = /** @type {HTMLTextAreaElement} */ (byId("paste-ids"));
    byId("users-field").hidden = !examples.length;
    this.users.replaceChildren(el("option", { value: "", text: "Choose a user …" }), ...examples.map(option));
    this.users.addEventListener("change", () => this.load(Number(this.users.value || -1)));
    byId("paste-open").addEventListener("click", () => this.open(this.form.hidden));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.take([...store.state.history, ...this.pasted()]);
    });
    byId("paste-replace").addEventListener("click", () => this.take(this.pasted()));
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.open(false);
    });
    byId("clear").addEventListener("click", () => {
      store.set({ history: [], user: null, interest: null });
      say("The history is empty.");
      byId("pick").focus();
    });
  }

  load(at) {
    const example = this.examples[at];
    if (!example) return this.store.set({ user: null });
    this.store.set(userState(this.examples, at));
    this.say(`${example.name} loaded, ${counted(example.history.length, "item")}.`);
  }

  open(yes) {
    this.form.hidden = !yes;
    byId("paste-open").setAttribute("aria-expanded", String(yes));
    (yes ? this.ids : byId("paste-open")).focus();
  }

  /** @returns {string[]} ids between commas or on lines, without quotes around them */
  pasted() {
    const bare = (text) => text.trim().replace(/^(["'])(.*)\1$/, "$2");
    return this.ids.value
      .replace(/^\s*\[|\]\s*$/g, "")
      .split(/[,\n\r\t]+/)
      .map(bare)
      .filter(Boolean);
  }

  take(history) {
    if (!this.pasted().length) return this.ids.focus();
    this.store.set({ history, user: null });
    this.say(`The history holds ${counted(history.length, "item")}.`);
    this.ids.value = "";
    this.open(false);
  }

  /** @param {import("./types.js").State} state */
  show(state) {
    this.users.value = state.user !== null && state.user < this.examples.length ? String(state.user) : "";
    byId("clear").toggleAttribute("disabled", !state.history.length);
  }
}

function option(example, at) {
  const text = `${example.name} · ${counted(example.history.length, "item")}, then ${example.next.length}`;
  return el("option", { value: at, text });
}
