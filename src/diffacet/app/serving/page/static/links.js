/** Lines between the two lists: the same item before and after. */

import { svg } from "./dom.js";

export class Links {
  /** @param {HTMLElement} root of both lists */
  constructor(root) {
    this.root = root;
    /** @type {HTMLElement|null} */
    this.gap = null;
    this.observer = new ResizeObserver(() => this.draw());
    const point = (event) => this.point(event.target.closest(".row")?.dataset.id ?? null);
    root.addEventListener("pointerover", point);
    root.addEventListener("focusin", point);
    for (const leaving of ["pointerleave", "focusout"]) root.addEventListener(leaving, () => this.point(null));
  }

  /** @param {HTMLElement|null} gap between the lists; null: there is one list only */
  show(gap) {
    this.observer.disconnect();
    this.gap = gap;
    if (gap) this.observer.observe(gap); // which draws once, too
  }

  draw() {
    const { gap, root } = this;
    const [width, height] = [gap.offsetWidth, gap.offsetHeight];
    if (!width || !height) return;
    // Offsets are those of the rows at rest, also while they glide.
    const middle = (row) => (row.offsetTop - gap.offsetTop + row.offsetHeight / 2).toFixed(1);
    const after = new Map([...root.querySelectorAll(".after .row")].map((row) => [row.dataset.id, row]));
    const line = (row) => {
      const other = after.get(row.dataset.id);
      if (!other) return [];
      const [from, to, half] = [middle(row), middle(other), width / 2];
      const d = `M2 ${from}C${half} ${from} ${half} ${to} ${width - 2} ${to}`;
      const colour = [...other.classList].find((one) => one.startsWith("tone-"));
      return [svg("path", { d, class: `link ${colour}`, "data-id": row.dataset.id })];
    };
    const lines = [...root.querySelectorAll(".before .row")].flatMap(line);
    gap.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, ...lines));
  }

  /** @param {string|null} id of the item to show in both lists */
  point(id) {
    for (const one of this.root.querySelectorAll(".row, .link")) {
      one.classList.toggle("lit", id !== null && one.dataset.id === id);
    }
    this.gap?.classList.toggle("lighting", id !== null);
  }
}
