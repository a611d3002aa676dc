/** A choice of several categories: a button that opens a list of boxes, with a search in long ones. */

import { counted, el } from "./dom.js";

const LONG = 12;

export class Categories {
  /** @param {string[]} names @param {(chosen: string[]) => void} choose */
  constructor(names, choose) {
    this.names = names;
    this.choose = choose;
    this.chosen = [];
    this.summary = el("summary", {});
    this.boxes = names.map((name) => {
      const box = el("input", { type: "checkbox", value: name, onchange: () => this.change() });
      return el("li", {}, el("label", { class: "check" }, box, name));
    });
    const search = el("input", {
      type: "search",
      "aria-label": "Search categories",
      placeholder: "Search",
      oninput: () => this.narrow(search.value),
    });
    this.clear = el("button", { type: "button", text: "All categories", onclick: () => choose([]) });
    const list = el("ul", { class: "category-list", "aria-label": "Categories" }, ...this.boxes);
    const menu = el("div", { class: "menu" }, names.length > LONG && search, list, this.clear);
    this.root = el("details", { class: "categories", id: "categories" }, this.summary, menu);
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.root.open) return;
      this.root.open = false;
      this.summary.focus();
    });
    this.root.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !this.root.contains(event.relatedTarget)) this.root.open = false;
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.root.contains(event.target)) this.root.open = false;
    });
  }

  change() {
    const boxes = this.boxes.map((one) => one.querySelector("input"));
    this.choose(boxes.filter((box) => box.checked).map((box) => box.value));
  }

  narrow(text) {
    const part = text.trim().toLowerCase();
    this.boxes.forEach((box, at) => (box.hidden = !this.names[at].toLowerCase().includes(part)));
  }

  /** @param {string[]} chosen */
  show(chosen) {
    const set = new Set(chosen);
    for (const one of this.boxes) {
      const box = one.querySelector("input");
      box.checked = set.has(box.value);
    }
    this.clear.disabled = !chosen.length;
    const what =
      chosen.length === 0 ? "all" : chosen.length === 1 ? chosen[0] : counted(chosen.length, "category", "chosen");
    this.summary.textContent = `Categories: ${what}`;
  }
}
