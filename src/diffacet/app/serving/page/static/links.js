/** Lines between the two lists: the same item before and after. */

import { svg, tone } from "./dom.js";

export class Links {
  constructor() {
    this.observer = new ResizeObserver(() => this.draw());
  }

  /** @param {HTMLElement} root of both lists @param {HTMLElement|null} gap between them */
  show(root, gap) {
    this.observer.disconnect();
    this.root = root;
    this.gap = gap;
    if (!gap) return;
    this.observer.observe(gap);
    root.onpointerover = (event) => this.point(event.target.closest?.(".row")?.dataset.id ?? null);
    root.onpointerleave = () => this.point(null);
    root.onfocusin = (event) => this.point(event.target.closest?.(".row")?.dataset.id ?? null);
    root.onfocusout = () => this.point(null);
  }

  draw() {
    const { gap, root } = this;
    const { width, height, top } = gap.getBoundingClientRect();
    if (!width || !height) return;
    const mid = (row) => row.getBoundingClientRect().top - top + row.offsetHeight / 2;
    // Rows may be gliding: where they will stand is what counts.
    for (const row of root.querySelectorAll(".after .row")) row.getAnimations().forEach((one) => one.finish());
    const after = new Map([...root.querySelectorAll(".after .row")].map((row) => [row.dataset.id, row]));
    const lines = [];
    for (const row of root.querySelectorAll(".before .row")) {
      const other = after.get(row.dataset.id);
      if (!other) continue;
      const [from, to, half] = [mid(row), mid(other), width / 2];
      const path = `M2 ${from.toFixed(1)}C${half} ${from.toFixed(1)} ${half} ${to.toFixed(1)} ${width - 2} ${to.toFixed(1)}`;
      lines.push(svg("path", { d: path, class: `link ${[...other.classList].find((one) => one.startsWith("tone-")) ?? tone(0)}`, "data-id": row.dataset.id }));
    }
    gap.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, ...lines));
  }

  /** @param {string|null} id of the item to show in both lists */
  point(id) {
    for (const one of this.root.querySelectorAll(".row, .link")) one.classList.toggle("lit", id !== null && one.dataset.id === id);
    this.gap?.classList.toggle("lighting", id !== null);
  }
}
