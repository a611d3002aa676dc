/** The history as a strip: items from old to new, below them how much each interest looks at each. */

import { item, name } from "./catalogue.js";
import { badge, byId, counted, el, tone } from "./dom.js";
import { placesOf } from "./reading.js";

/** @typedef {import("./types.js").View} View */
/** @typedef {import("./reading.js").Place} Place */

const HINT = "Keys: arrows go along, Delete takes out, Shift + arrows move.";
const SHARES = "Point at an item for the exact shares. ";
const FATES = { older: "not read: older", unknown: "not in the catalogue", read: "" };

/** Where a long word may break in a narrow column: before a consonant that a vowel follows. */
const BREAKS = /(?<=\p{L}{3})(?=[bcdfghjklmnpqrstvwxz][aeiouy]\p{L})/gu;
/** @param {string} text @returns {string} the same with soft hyphens in its long words, for the eye only */
const breakable = (text) => text.replace(/\p{L}{8,}/gu, (word) => word.replace(BREAKS, "\u00ad"));
/** @param {number} share @returns {string} */
const percent = (share) => `${(100 * share).toFixed(1)} %`;
/** @param {number} share @returns {string} as a cell has room for */
const short = (share) => (share > 0 && share < 0.005 ? "<1" : String(Math.round(100 * share)));

export class Strip {
  /** @param {(history: string[]) => void} change @param {(text: string) => void} say */
  constructor(change, say) {
    this.change = change;
    this.say = say;
    this.current = 0;
    this.root = byId("strip");
  }

  /** @param {View} view */
  show(view) {
    const { history } = view.state;
    // Shares stand below the items that they are of, or not at all.
    this.view = view = view.answer?.history.join() === history.join() ? view : { ...view, answer: null };
    const grown = history.length !== this.shown?.length || history.at(-1) !== this.shown?.at(-1);
    const focus = this.root.contains(document.activeElement) ? document.activeElement?.dataset?.act : null;
    const left = this.root.querySelector(".strip-scroll")?.scrollLeft ?? 0;
    this.root.hidden = !history.length;
    if (!history.length) return this.root.replaceChildren();
    this.places = placesOf(view);
    this.told = view.answer?.told?.interests[0]?.attention ? view.answer.told : null;
    this.hint = (this.told ? SHARES : "") + HINT;
    this.current = Math.min(Math.max(this.current, 0), history.length - 1);
    const older = this.places.filter((place) => place.fate === "older").length;
    this.first = older > 1 && !this.unfolded ? this.places.findIndex((place) => place.fate !== "older") : 0;
    this.current = Math.max(this.current, this.first);
    const columns = this.places.map((place, at) => this.column(place, at)).slice(this.first);
    const list = el("ol", { class: "strip-columns", "aria-label": "History, oldest first" }, ...columns);
    const scroll = el("div", { class: "strip-scroll" }, this.told && this.labels(), list);
    this.readout = el("p", { class: "readout", "aria-hidden": "true", text: this.hint });
    const foot = el("div", { class: "strip-foot" }, this.readout, older > 1 && this.fold(older));
    this.root.replaceChildren(scroll, foot, ...(this.told ? [this.table()] : []));
    scroll.scrollLeft = grown ? scroll.scrollWidth : left;
    this.shown = history;
    list.addEventListener("keydown", (event) => this.key(event));
    if (focus) this.focus(this.current, focus);
  }

  /** The way to the items that are too old to be read, and back. */
  fold(older) {
    const text = this.unfolded ? `Hide the ${older} older items` : `Show ${older} older items that are not read`;
    const turn = () => {
      this.unfolded = !this.unfolded;
      this.show(this.view);
      this.root.querySelector(".fold").focus();
    };
    return el("button", {
      type: "button",
      class: "fold",
      "aria-expanded": String(Boolean(this.unfolded)),
      text,
      onclick: turn,
    });
  }

  labels() {
    const { interest } = this.view.state;
    const rows = this.told.interests.map((one) =>
      el("div", { class: `strip-label ${one.interest === interest ? "chosen" : ""}` }, badge(one.interest)),
    );
    return el(
      "div",
      { class: "strip-labels", "aria-hidden": "true" },
      el("div", { class: "strip-corner", text: "share, %" }),
      ...rows,
    );
  }

  /** @param {Place} place @param {number} at */
  column(place, at) {
    const { interest } = this.view.state;
    const kept = interest === null ? null : this.told?.interests[interest]?.kept;
    const pruned = place.column !== null && kept?.[place.column] === false;
    const fate = pruned ? "pruned" : FATES[place.fate];
    const { category } = item(place.id);
    const card = el(
      "div",
      { class: `item ${place.fate} ${pruned ? "pruned" : ""}`, title: name(place.id) },
      el("span", { class: "item-title", text: breakable(name(place.id)) }),
      el("span", { class: "item-more", text: fate || category || "" }),
      el("span", { class: "item-acts" }, ...this.acts(place, at)),
    );
    const cells = this.told ? this.told.interests.map((one) => this.cell(one, place)) : [];
    const tell = () => (this.readout.textContent = this.exact(place, at));
    const rest = () => (this.readout.textContent = this.hint);
    return el(
      "li",
      { "data-at": at, onpointerenter: tell, onpointerleave: rest, onfocusin: tell, onfocusout: rest },
      card,
      ...cells,
    );
  }

  acts(place, at) {
    const last = this.places.length - 1;
    const act = (kind, sign, label, run, off = false) =>
      el("button", {
        type: "button",
        class: "act",
        "data-act": kind,
        tabindex: at === this.current ? 0 : -1,
        "aria-label": `${label} ${name(place.id)}`,
        "aria-disabled": off ? "true" : null,
        text: sign,
        onclick: run,
        onfocus: () => (this.current = at),
      });
    return [
      act("older", "‹", "Move earlier:", () => this.move(at, -1), at === 0),
      act("remove", "×", "Remove", () => this.remove(at)),
      act("newer", "›", "Move later:", () => this.move(at, 1), at === last),
    ];
  }

  cell(one, place) {
    const share = place.column === null ? null : one.attention[place.column];
    if (share === null) return el("span", { class: "cell none", "aria-hidden": "true" });
    const most = Math.max(...this.told.interests.flatMap((each) => each.attention));
    const pruned = one.kept?.[place.column] === false;
    const chosen = one.interest === this.view.state.interest;
    const classes = `cell ${tone(one.interest)} ${pruned ? "pruned" : ""} ${chosen ? "chosen" : ""}`;
    const vars = { "--heat": `${Math.round((100 * share) / (most || 1))}%` };
    return el("span", { class: classes, vars, "aria-hidden": "true", text: short(share) });
  }

  /** What is known of one place of the history, in words. */
  exact(place, at) {
    const head = `${at + 1} of ${this.places.length} · ${name(place.id)} (id ${place.id})`;
    if (place.column === null || !this.told) return [head, FATES[place.fate]].filter(Boolean).join(" · ");
    const shares = this.told.interests.map((one) => {
      const pruned = one.kept?.[place.column] === false ? " pruned" : "";
      return `${one.interest + 1}: ${percent(one.attention[place.column])}${pruned}`;
    });
    return `${head} · ${shares.join(" · ")}`;
  }

  /** The same numbers for those who do not see the strip. */
  table() {
    const { interests } = this.told;
    const head = el(
      "tr",
      {},
      el("th", { scope: "col", text: "Item" }),
      ...interests.map((one) => el("th", { scope: "col", text: `Interest ${one.interest + 1}` })),
    );
    const rows = this.places.map((place) => {
      const cells = interests.map((one) => {
        if (place.column === null) return el("td", { text: FATES[place.fate] });
        const pruned = one.kept?.[place.column] === false ? ", pruned" : "";
        return el("td", { text: percent(one.attention[place.column]) + pruned });
      });
      return el("tr", {}, el("th", { scope: "row", text: name(place.id) }), ...cells);
    });
    const caption = el("caption", { text: "Attention of each interest over the history" });
    // The table scrolls inside a clipped box of its own: a table itself would keep its width.
    return el(
      "div",
      { class: "visually-hidden" },
      el("table", { id: "attention" }, caption, el("thead", {}, head), el("tbody", {}, ...rows)),
    );
  }

  key(event) {
    if (!event.target.closest("[data-at]")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const kind = event.target.dataset?.act ?? "remove";
    const last = this.places.length - 1;
    if (step && event.shiftKey) this.move(this.current, step);
    else if (step) this.focus(Math.min(Math.max(this.current + step, this.first), last), kind);
    else if (event.key === "Home" || event.key === "End") this.focus(event.key === "Home" ? this.first : last, kind);
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(this.current);
    else return;
    event.preventDefault();
  }

  focus(at, kind) {
    this.current = at;
    for (const button of this.root.querySelectorAll(".act")) button.tabIndex = -1;
    const column = this.root.querySelector(`[data-at="${at}"]`);
    for (const button of column?.querySelectorAll(".act") ?? []) button.tabIndex = 0;
    column?.querySelector(`[data-act=${kind}]`)?.focus();
    column?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  move(at, step) {
    const history = [...this.view.state.history];
    const to = at + step;
    if (to < 0 || to >= history.length) return;
    [history[at], history[to]] = [history[to], history[at]];
    this.current = to;
    this.say(`${name(history[to])} is item ${to + 1} of ${history.length} now.`);
    this.change(history);
  }

  remove(at) {
    const history = [...this.view.state.history];
    const [gone] = history.splice(at, 1);
    this.say(`${name(gone)} removed; ${counted(history.length, "item")} left.`);
    this.change(history);
    if (!history.length) byId("pick").focus();
  }
}

/** @param {View} view @returns {HTMLElement[]} what was done otherwise than asked, as list items */
export function notes({ state, answer }) {
  if (!answer) return [];
  const said = [...new Set([...answer.after.notes, ...(answer.told?.notes ?? [])])].map((text) => el("li", { text }));
  const unknown = new Set([...answer.after.unknown, ...(answer.told?.unknown ?? [])]);
  const strange = state.history.filter((id, at) => unknown.has(id) && state.history.indexOf(id) === at);
  if (strange.length) {
    const named = strange.slice(0, 12).map((id) => el("code", { text: id }));
    const more = strange.length > 12 ? ` and ${strange.length - 12} more` : "";
    said.unshift(
      el(
        "li",
        { class: "unknown-ids" },
        "Not in the catalogue, passed over: ",
        ...named.flatMap((code, n) => (n ? [", ", code] : [code])),
        more,
      ),
    );
  }
  return said;
}
