/** The search for items: a combobox over the catalogue (ARIA 1.2, automatic selection). */

import { get } from "./api.js";
import { remembered } from "./catalogue.js";
import { byId, counted, debounced, el } from "./dom.js";

/** @typedef {import("./types.js").Item} Item */

const PAGE = 20;
const QUIET = 150;

export class Picker {
  /** @param {(item: Item) => void} pick @param {(text: string) => void} say @param {(error: Error) => void} fail */
  constructor(pick, say, fail) {
    this.pick = pick;
    this.say = say;
    this.fail = fail;
    this.input = /** @type {HTMLInputElement} */ (byId("pick"));
    this.list = byId("pick-list");
    /** @type {Item[]} */
    this.items = [];
    this.active = -1;
    this.abort = new AbortController();
    const later = debounced(() => this.search(), QUIET);
    this.input.addEventListener("input", () => {
      this.stale = true;
      later();
    });
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("click", () => this.search());
    this.input.addEventListener("blur", () => this.close());
    // A press on the list must not take the focus, and with it the list, away.
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const at = [...this.list.children].indexOf(event.target.closest("[role=option]"));
      if (at >= 0) this.choose(at);
    });
  }

  get isOpen() {
    return !this.list.hidden;
  }

  async key(event) {
    const { key } = event;
    if (key === "ArrowDown" || key === "ArrowUp") {
      event.preventDefault();
      if (!this.isOpen) await this.search();
      else this.activate((this.active + (key === "ArrowDown" ? 1 : this.items.length - 1)) % this.items.length);
    } else if (key === "Enter") {
      event.preventDefault();
      if (!this.isOpen || this.stale) await this.search();
      if (this.isOpen) this.choose(this.active);
    } else if (key === "Escape") {
      if (this.isOpen) this.close();
      else this.input.value = "";
    } else if (key === "Tab") {
      this.close();
    }
  }

  async search() {
    this.abort.abort();
    const abort = (this.abort = new AbortController());
    this.stale = false;
    try {
      const q = encodeURIComponent(this.input.value.trim());
      const found = await get(`v1/items?q=${q}&limit=${PAGE}`, abort.signal);
      if (abort.signal.aborted || document.activeElement !== this.input) return;
      this.show(remembered(found.items), found.total);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  /** @param {Item[]} items @param {number} total */
  show(items, total) {
    this.items = items;
    this.list.replaceChildren(
      ...items.map((item, at) =>
        el(
          "li",
          { role: "option", id: `pick-${at}`, "aria-selected": "false" },
          el("span", { class: "option-title", text: item.title || item.item_id }),
          el("span", {
            class: "option-more",
            text: [item.title && item.item_id, item.category].filter(Boolean).join(" · "),
          }),
        ),
      ),
    );
    if (!items.length) {
      this.list.replaceChildren(el("li", { class: "option-none", text: "No item has such an id or title." }));
    } else if (total > items.length) {
      const more = `The first ${items.length} of ${total.toLocaleString("en")}; type more to narrow them.`;
      this.list.append(el("li", { class: "option-none", role: "presentation", text: more }));
    }
    this.list.hidden = false;
    this.list.scrollTop = 0;
    this.input.setAttribute("aria-expanded", "true");
    this.activate(items.length ? 0 : -1);
    this.say(`${counted(total, "item")} found`);
  }

  activate(at) {
    this.active = at;
    this.input.removeAttribute("aria-activedescendant");
    [...this.list.querySelectorAll("[role=option]")].forEach((option, number) => {
      option.setAttribute("aria-selected", String(number === at));
      if (number !== at) return;
      this.input.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    });
  }

  choose(at) {
    const item = this.items[at];
    if (!item) return;
    this.input.value = "";
    this.close();
    this.pick(item);
  }

  close() {
    this.abort.abort();
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
