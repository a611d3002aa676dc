/** The bar that stays in sight: which interest is looked at, and how many steps of refinement. */

import { byId, debounced, el, tone } from "./dom.js";

/** @typedef {import("./types.js").View} View */

const QUIET = 120;

export class Lens {
  /** @param {import("./state.js").Store} store */
  constructor(store) {
    this.store = store;
    this.steps = /** @type {HTMLInputElement} */ (byId("steps"));
    this.moving = false; // the hand on the slider is not overruled
    const later = debounced(() => {
      this.moving = false;
      store.set({ steps: Number(this.steps.value) });
    }, QUIET);
    this.steps.addEventListener("input", () => {
      this.moving = true;
      this.said(Number(this.steps.value));
      later();
    });
    this.box = byId("lens-interests");
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  /** @param {View} view */
  show(view) {
    const { state, card, answer, steps } = view;
    this.card = card;
    const count = answer?.told?.interests.length ?? 0;
    byId("lens-steps").hidden = steps === null;
    this.box.hidden = count < 2;
    byId("lens").hidden = !state.history.length || (steps === null && count < 2);
    if (steps !== null) {
      this.steps.max = String(card.refine_steps.max);
      if (!this.moving) this.steps.value = String(steps);
      this.said(Number(this.steps.value));
    }
    this.chips(count, state.interest);
  }

  chips(count, chosen) {
    const had = this.box.contains(document.activeElement);
    const chip = (interest) =>
      el("button", {
        type: "button",
        class: `chip ${tone(interest)}`,
        "aria-pressed": String(interest === chosen),
        "aria-label": interest === null ? "All interests" : `Interest ${interest + 1}`,
        tabindex: interest === chosen ? 0 : -1,
        text: interest === null ? "All" : String(interest + 1),
        onclick: () => this.store.set({ interest }),
      });
    const label = el("span", { class: "lens-label", "aria-hidden": "true", text: "Interest" });
    this.box.replaceChildren(label, chip(null), ...Array.from({ length: count }, (_, one) => chip(one)));
    if (had) this.box.querySelector("[tabindex='0']")?.focus();
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const chips = [...this.box.querySelectorAll(".chip")];
    const at = chips.indexOf(document.activeElement);
    chips[(at + step + chips.length) % chips.length].click();
  }

  said(steps) {
    const { max, default: usual } = this.card.refine_steps;
    const text = `${steps} of ${max} ${max === 1 ? "step" : "steps"}`;
    this.steps.setAttribute("aria-valuetext", text + (steps === 0 ? ", unrefined" : ""));
    const more = steps === usual ? " (as set)" : steps === 0 ? " (unrefined)" : "";
    byId("steps-said").replaceChildren(text, el("span", { class: "roomy", text: more }));
    this.steps.style.setProperty("--done", `${(100 * steps) / Math.max(1, max)}%`);
  }
}
