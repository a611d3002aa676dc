/** The candidates before and after refinement, side by side, as one list or by interest. */

import { badge, byId, counted, el, tone, unseen } from "./dom.js";
import { compare, hits } from "./changes.js";
import { Links } from "./links.js";

/** @typedef {import("./types.js").View} View */
/** @typedef {import("./changes.js").Row} Row */

const QUICK = 220;
const SIGNS = { up: "▲", down: "▼", same: "=", new: "new", gone: "gone" };

export class Candidates {
  /** @param {(id: string) => void} add an item to the history */
  constructor(add) {
    this.add = add;
    this.root = byId("lists");
    this.said = byId("candidates-said");
    this.side = "after";
    this.links = new Links(this.root);
    this.calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  }

  /** Shows that an answer is awaited: bars at first, later the old answer. */
  wait() {
    this.root.setAttribute("aria-busy", "true");
    if (this.root.childElementCount) return;
    const bars = () => el("div", { class: "skeleton" }, ...Array.from({ length: 10 }, () => el("span")));
    this.root.replaceChildren(bars(), bars());
  }

  /** The wait is over, whatever came of it. */
  rest() {
    this.root.setAttribute("aria-busy", "false");
    this.root.querySelectorAll(".skeleton").forEach((one) => one.remove());
  }

  /** @param {View} view */
  show(view) {
    const { state, answer, steps } = view;
    if (!state.history.length) this.root.replaceChildren();
    if (!answer) return;
    const { before, after } = answer;
    const compared = compare(before?.items ?? null, after.items);
    const tops = this.tops();
    const focus = this.focused();
    const several = (answer.told?.interests.length ?? 1) > 1;
    const how = { view, several };
    const lists = [];
    if (before) lists.push(this.list("before", "Before refinement", "0 steps", compared.before, how));
    const much = steps === null ? "" : counted(steps, "step");
    lists.push(this.list("after", before ? "After refinement" : "", much, compared.after, how));
    const gap = before ? el("div", { class: "links", "aria-hidden": "true" }) : null;
    this.root.className = `lists ${before ? "two" : "one"} show-${this.side}`;
    this.root.replaceChildren(...[before && this.switch(), lists[0], gap, lists[1]].filter(Boolean));
    this.said.textContent = summary(view, compared.counts);
    this.links.show(gap);
    this.move(tops);
    if (focus) this.focus(focus);
  }

  /** Which button of which row has the focus: the item's, and its place for when the item is gone. */
  focused() {
    const row = this.root.contains(document.activeElement) ? document.activeElement.closest(".row") : null;
    if (!row) return null;
    const side = row.closest(".before") ? "before" : "after";
    return { side, id: row.dataset.id, at: [...this.root.querySelectorAll(`.${side} .row`)].indexOf(row) };
  }

  focus({ side, id, at }) {
    const rows = [...this.root.querySelectorAll(`.${side} .row`)];
    const row = rows.find((one) => one.dataset.id === id) ?? rows[Math.min(at, rows.length - 1)];
    row?.querySelector(".add").focus({ preventScroll: true });
  }

  /** Where there is no room for both lists, one of them. */
  switch() {
    const choice = (side, text) =>
      el("button", {
        type: "button",
        "aria-pressed": String(this.side === side),
        text,
        onclick: (event) => {
          this.side = side;
          this.root.classList.toggle("show-before", side === "before");
          this.root.classList.toggle("show-after", side === "after");
          for (const one of event.target.parentNode.children)
            one.setAttribute("aria-pressed", String(one === event.target));
        },
      });
    return el(
      "div",
      { class: "segmented side-switch", role: "group", "aria-label": "List" },
      choice("before", "Before"),
      choice("after", "After"),
    );
  }

  /** @param {"before"|"after"} side @param {Row[]} rows */
  list(side, title, much, rows, how) {
    const { state } = how.view;
    const shown = state.interest === null ? rows : rows.filter((row) => row.item.interest === state.interest);
    const head = title && el("h3", {}, title, " ", el("small", { text: much }));
    const parts =
      state.view === "groups" && how.several ? this.groups(side, shown, how) : [this.rows(side, shown, how)];
    return el("div", { class: `side ${side}` }, head, ...parts);
  }

  groups(side, rows, how) {
    const { state, answer } = how.view;
    return answer.told.interests
      .filter(({ interest }) => state.interest === null || state.interest === interest)
      .map(({ interest }) => {
        const mine = rows.filter((row) => row.item.interest === interest);
        const other = side === "after" ? answer.before : answer.after;
        const most = other ? other.items.filter((item) => item.interest === interest).length : 0;
        // Both sides of a group are as long as the longer one, so that the next groups stand level.
        return el(
          "div",
          { class: `group ${tone(interest)}`, vars: { "--rows": String(Math.max(mine.length, most, 1)) } },
          el("h4", {}, badge(interest), ` brings ${counted(mine.length, "item")}`),
          this.rows(side, mine, how),
        );
      });
  }

  rows(side, rows, how) {
    if (!rows.length)
      return el("p", { class: "plain", text: how.view.state.interest === null ? "None." : "None by this interest." });
    return el("ol", { class: "rows" }, ...rows.map((row) => this.row(side, row, how)));
  }

  /** @param {Row} row */
  row(side, { item, rank, change, other }, { view, several }) {
    const { next } = view;
    const hit = next?.has(item.item_id) ?? false;
    const title = item.title || item.item_id;
    const crossed = several && other && other.interest !== item.interest;
    const more = [item.category, crossed && `${side === "after" ? "was" : "now"} interest ${other.interest + 1}`];
    return el(
      "li",
      {
        class: `row ${tone(item.interest)} ${hit ? "hit" : ""} ${change.kind}`,
        "data-id": item.item_id,
        "data-rank": rank,
      },
      el("span", { class: "rank" }, String(rank)),
      several && badge(item.interest),
      el(
        "span",
        { class: "row-name" },
        el(
          "span",
          { class: "row-title", title: `${title} (id ${item.item_id})` },
          el("span", { class: "row-text", text: title }),
          hit && el("span", { class: "star", title: "the user took it next" }, "★", unseen(" taken next")),
        ),
        el("span", { class: "row-more", text: more.filter(Boolean).join(" · ") }),
      ),
      el("span", { class: `change ${change.kind}` }, ...changed(change)),
      el("span", { class: "score", title: "score", text: item.score.toFixed(3) }),
      el("button", {
        type: "button",
        class: "act add",
        "aria-label": `Add ${title} to the history`,
        title: "Add to the history",
        text: "+",
        onclick: () => this.add(item.item_id),
      }),
    );
  }

  /** @returns {Map<string, number>} where each item of the second list stands now */
  tops() {
    const rows = this.root.querySelectorAll(".after .row");
    return new Map([...rows].map((row) => [row.dataset.id, row.offsetTop]));
  }

  /** Lets rows glide from where they stood, for those who like motion. */
  move(tops) {
    if (this.calm.matches || !tops.size) return;
    for (const row of this.root.querySelectorAll(".after .row")) {
      const old = tops.get(row.dataset.id);
      const timing = { duration: QUICK, easing: "ease-out" };
      if (old === undefined) row.animate([{ opacity: 0 }, { opacity: 1 }], timing);
      else if (old !== row.offsetTop)
        row.animate([{ transform: `translateY(${old - row.offsetTop}px)` }, { transform: "none" }], timing);
    }
  }
}

/** @param {import("./changes.js").Change} change */
function changed({ kind, by }) {
  if (kind === "none") return [];
  if (kind === "same") return [unseen("unmoved"), el("span", { "aria-hidden": "true", text: SIGNS.same })];
  if (kind === "new" || kind === "gone") return [SIGNS[kind]];
  return [el("span", { "aria-hidden": "true", text: SIGNS[kind] }), unseen(`moved ${kind} `), ` ${by}`];
}

function summary({ state, answer, next, steps }, counts) {
  const parts = [];
  const { before, after } = answer;
  if (before) {
    const words = [`${counts.new} new`, `${counts.gone} gone`, `${counts.up} moved up`, `${counts.down} moved down`];
    parts.push(`${counted(steps, "step")} of refinement: ${words.join(", ")}, ${counts.same} unmoved.`);
  } else {
    parts.push(`${counted(after.items.length, "item")}, best first.`);
  }
  if (next) {
    const found = hits(after.items, next);
    const are = found === 1 ? "is" : "are";
    const was = before ? ` (${hits(before.items, next)} before)` : "";
    parts.push(`Of the ${counted(next.size, "item")} that the user took next, ${found} ★ ${are} here${was}.`);
  }
  if (state.diversity > 0) parts.push("Chosen for variety of categories, too.");
  return parts.join(" ");
}
