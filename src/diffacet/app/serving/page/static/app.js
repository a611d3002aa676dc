/** The page: asks what the service is, then shows what the state asks for, whenever it changes. */

import { ApiError, get, hasKey, useKey } from "./api.js";
import { Asking, stepsOf } from "./asking.js";
import { Candidates } from "./candidates.js";
import { showCard } from "./card.js";
import { forget, lookUp, name, remembered } from "./catalogue.js";
import { Controls } from "./controls.js";
import { byId, counted, el } from "./dom.js";
import { Intake, userState } from "./intake.js";
import { Interests } from "./interests.js";
import { Lens } from "./lens.js";
import { Picker } from "./picker.js";
import { fromHash, Store, toHash } from "./state.js";
import { notes, Strip } from "./strip.js";

/** @typedef {import("./types.js").Card} Card */
/** @typedef {import("./types.js").View} View */

const SHOWN_ONLY = new Set(["interest", "view", "user"]);
const SLOW = 150;

const say = (text) => (byId("said").textContent = text);

/** A failure in its own box, with a way to try again. */
function tell(box, error, again) {
  const retry = el("button", { type: "button", class: "primary", text: "Try again", onclick: again });
  const code = error.code && error.code !== "gone" ? el("code", { text: error.code }) : null;
  box.replaceChildren(el("p", {}, error.message, " ", code), retry);
  box.hidden = false;
}

class Page {
  /** @param {Card} card @param {import("./types.js").Example[]} examples */
  constructor(card, examples) {
    this.card = card;
    this.examples = examples;
    this.asking = new Asking();
    /** @type {import("./types.js").Answer|null} */
    this.answer = null;
    this.store = new Store(fromHash(location.hash));
    const grow = (id) => {
      this.store.set({ history: [...this.store.state.history, id] });
      say(`${name(id)} added.`);
    };
    const fail = (error) => this.failed(error);
    this.picker = new Picker((item) => grow(item.item_id), say, fail);
    this.intake = new Intake(this.store, examples, say);
    this.strip = new Strip((history) => this.store.set({ history }), say);
    this.lens = new Lens(this.store);
    this.interests = new Interests(this.store);
    this.controls = new Controls(this.store, card);
    this.candidates = new Candidates(grow);
    this.store.listen((changed) => this.changed(changed));
    window.addEventListener("hashchange", () => this.store.set(fromHash(location.hash)));
    byId("open-card").onclick = () => showCard(this.card);
    this.named();
    this.changed(new Set(["history"]));
  }

  /** Who answers. */
  named() {
    const { model, version, data } = this.card;
    document.title = `${model} on ${data.name} · diffacet explorer`;
    byId("model-name").textContent = model;
    byId("model-facts").textContent = `${version} · ${counted(data.items, "item")} · ${data.name}`;
    byId("open-card").removeAttribute("disabled");
    byId("main").hidden = false;
    byId("foot").hidden = hasKey(); // its link to the API could not carry the key
  }

  /** @param {Set<string>} changed fields of the state */
  changed(changed) {
    const { state } = this.store;
    const hash = toHash(state);
    if (hash !== location.hash.slice(1))
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    this.intake.show(state);
    if (!state.history.length) this.answer = null;
    byId("candidates").hidden = !state.history.length;
    this.invite(state);
    if ([...changed].every((field) => SHOWN_ONLY.has(field))) return this.show();
    if (changed.has("history")) {
      this.strip.show(this.view());
      lookUp(state.history).then((found) => found && this.strip.show(this.view()));
    }
    this.ask();
  }

  /** @param {boolean} [renew] whether an answer of another version leads to its card first */
  async ask(renew = true) {
    const { state } = this.store;
    if (!state.history.length) {
      this.asking.abort.abort();
      byId("candidates-error").hidden = true;
      document.body.classList.remove("stale");
      return this.show();
    }
    const slow = setTimeout(() => this.wait(), this.answer ? SLOW : 0);
    const mine = (this.turn = (this.turn ?? 0) + 1);
    try {
      const answer = await this.asking.ask(state, this.card);
      if (!answer) return;
      this.answer = answer;
      byId("candidates-error").hidden = true;
      document.body.classList.remove("stale");
      if (renew && answer.after.model_version !== this.card.version) return await this.renewed();
      this.show();
    } catch (error) {
      // Another model may not know what the one before it could be asked.
      if (renew && error.status === 422 && (await this.isOther())) return await this.renewed();
      this.failed(error);
    } finally {
      clearTimeout(slow);
      if (mine === this.turn) this.candidates.rest();
    }
  }

  /** @returns {Promise<boolean>} whether another version answers now than the page knows */
  async isOther() {
    try {
      return (await get("v1/model")).version !== this.card.version;
    } catch {
      return false; // what went wrong first is what is told
    }
  }

  wait() {
    this.candidates.wait();
    if (this.card.can.interests) this.interests.wait();
  }

  /** The service took another run meanwhile: its card, and nothing of the old answers. */
  async renewed() {
    this.asking.forget();
    forget();
    this.card = await get("v1/model");
    this.named();
    this.controls = new Controls(this.store, this.card);
    say(`The service answers with ${this.card.version} now.`);
    lookUp(this.store.state.history).then(() => this.strip.show(this.view()));
    await this.ask(false); // workers may differ for a moment: no going back and forth
  }

  failed(error) {
    if (error.status === 401) return needKey(error);
    if (error.status === 422) this.answer = null; // what stood here is no answer to this
    if (!this.answer) byId("interests").hidden = true;
    if (!this.answer) byId("lists").replaceChildren();
    document.body.classList.add("stale");
    const box = byId(this.store.state.history.length ? "candidates-error" : "notice");
    tell(box, error, () => {
      box.hidden = true;
      this.ask();
    });
  }

  /** @returns {View} */
  view() {
    const { state } = this.store;
    const count = this.answer?.told?.interests.length ?? 0;
    const interest = state.interest !== null && state.interest < count ? state.interest : null;
    const example = state.user === null ? undefined : this.examples[state.user];
    const next = example ? new Set(example.next) : null;
    return {
      state: { ...state, interest },
      card: this.card,
      answer: this.answer,
      next,
      steps: stepsOf(state, this.card),
    };
  }

  show() {
    const view = this.view();
    this.strip.show(view);
    this.lens.show(view);
    this.interests.show(view);
    this.controls.show(view);
    this.candidates.show(view);
    const said = notes(view);
    byId("notes").hidden = !said.length;
    byId("notes").replaceChildren(...said);
  }

  /** Without a history: what can be done. */
  invite({ history }) {
    const box = byId("empty");
    box.hidden = history.length > 0;
    if (history.length || box.childElementCount) return;
    const load = (at) => {
      const text = `Load ${this.examples[at].name}`;
      return el("button", {
        type: "button",
        class: at ? "" : "primary",
        text,
        onclick: () => this.store.set(userState(this.examples, at)),
      });
    };
    box.append(
      el("p", { class: "empty-title", text: "Whose interests?" }),
      el(
        "p",
        {},
        "Search for items above and add a few, oldest first",
        this.examples.length ? ", or look at a held-out user:" : ".",
      ),
      el("div", { class: "buttons" }, ...this.examples.slice(0, 3).map((_, at) => load(at))),
    );
  }
}

/** @param {ApiError} error */
function needKey(error) {
  const form = /** @type {HTMLFormElement} */ (byId("key-form"));
  const input = /** @type {HTMLInputElement} */ (byId("key"));
  byId("key-hint").textContent = hasKey() ? error.message : "It stays in this tab and goes to this service only.";
  form.hidden = false;
  byId("main").hidden = true;
  input.focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    useKey(input.value.trim());
    input.value = "";
    form.hidden = true;
    start();
  };
}

/** @type {Page|null} one page, however often it has to be started */
let page = null;

async function start() {
  try {
    const card = await get("v1/model");
    const told = card.can.examples === false ? { examples: [] } : await get("v1/examples");
    const examples = told.examples.map((one) => ({
      ...one,
      history: remembered(one.history),
      next: one.next.map(String),
    }));
    byId("notice").hidden = true;
    if (page) {
      byId("main").hidden = false;
      page.ask();
    } else {
      page = new Page(card, examples);
    }
  } catch (error) {
    if (error.status === 401) return needKey(error);
    if (!(error instanceof ApiError)) throw error;
    tell(byId("notice"), error, start);
  }
}

start();
