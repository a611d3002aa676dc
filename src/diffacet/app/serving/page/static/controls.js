/** How candidates are asked for: how many, how varied, of which categories, with or without what was seen. */

import { byId, debounced, el } from "./dom.js";
import { Categories } from "./categories.js";
import { SIZES } from "./state.js";

/** @typedef {import("./types.js").View} View */

const NOTCHES = 20;
const QUIET = 120;

export class Controls {
  /** @param {import("./state.js").Store} store @param {import("./types.js").Card} card */
  constructor(store, card) {
    this.store = store;
    this.card = card;
    this.most = 1;
    this.size = el(
      "select",
      { id: "k", onchange: () => store.set({ k: Number(this.size.value) }) },
      ...SIZES.map((k) => el("option", { value: k, text: k })),
    );
    this.range = el("input", {
      id: "diversity",
      type: "range",
      min: 0,
      max: NOTCHES,
      step: 1,
      value: 0,
      "aria-describedby": card.can.diversity ? null : "diversity-why",
    });
    this.range.disabled = !card.can.diversity;
    this.moving = false;
    const later = debounced(() => {
      this.moving = false;
      store.set({ diversity: this.kappa() });
    }, QUIET);
    this.range.addEventListener("input", () => {
      this.moving = true;
      this.said(this.kappa());
      later();
    });
    this.output = el("output", { for: "diversity" });
    this.seen = el("input", {
      type: "checkbox",
      id: "hide-seen",
      onchange: () => store.set({ hideSeen: this.seen.checked }),
    });
    this.categories = card.can.categories
      ? new Categories(card.categories, (categories) => store.set({ categories }))
      : null;
    this.views = el(
      "div",
      { class: "segmented", role: "group", "aria-label": "Arrangement" },
      this.view("list", "One list"),
      this.view("groups", "By interest"),
    );
    const why = card.can.diversity
      ? null
      : el("span", { class: "why", id: "diversity-why", text: "the items have no categories" });
    byId("controls").replaceChildren(
      el("div", { class: "field inline" }, el("label", { for: "k", text: "Items" }), this.size),
      el(
        "div",
        { class: "field inline steps" },
        el("label", { for: "diversity", text: "Diversity" }),
        this.range,
        this.output,
        why,
      ),
      ...(this.categories ? [this.categories.root] : []),
      el("label", { class: "field inline check", for: "hide-seen" }, this.seen, "Hide seen"),
      this.views,
    );
  }

  view(name, text) {
    return el("button", { type: "button", "data-view": name, text, onclick: () => this.store.set({ view: name }) });
  }

  /** @returns {number} in units of the score: a share of what lies between the first and the last candidate */
  kappa() {
    const share = Number(this.range.value) / NOTCHES;
    return share === 0 ? 0 : Number((share * this.most).toPrecision(3));
  }

  /** @param {View} view */
  show({ state, answer }) {
    this.size.value = String(state.k);
    this.seen.checked = state.hideSeen;
    this.categories?.show(state.categories);
    for (const button of this.views.children)
      button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
    this.views.hidden = (answer?.told?.interests.length ?? 1) < 2;
    if (answer && state.diversity === 0) this.most = spread(answer.after.items);
    this.most = Math.max(this.most, state.diversity);
    if (!this.moving) this.range.value = String(Math.round((NOTCHES * state.diversity) / this.most));
    this.said(this.moving ? this.kappa() : state.diversity);
  }

  said(kappa) {
    this.output.textContent = this.range.disabled ? "" : kappa === 0 ? "off" : String(kappa);
    this.range.setAttribute("aria-valuetext", kappa === 0 ? "off" : `${kappa} in units of the score`);
    this.range.style.setProperty("--done", `${(100 * Number(this.range.value)) / NOTCHES}%`);
  }
}

/** @param {import("./types.js").Candidate[]} items @returns {number} from which diversity on all are reordered */
function spread(items) {
  const wide = items.length > 1 ? items[0].score - items[items.length - 1].score : 0;
  return wide > 0 ? Number(wide.toPrecision(2)) : 1;
}
