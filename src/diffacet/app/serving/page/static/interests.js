/** The interests: what each reads, how far it moved, what it brings; where they lie and which dimensions moved. */

import { name } from "./catalogue.js";
import { badge, byId, drawn, el, tone } from "./dom.js";
import { dimensions, furthest } from "./dimensions.js";
import { legend, moves, plane } from "./plane.js";
import { mostRead } from "./reading.js";

/** @typedef {import("./types.js").View} View */

export class Interests {
  /** @param {import("./state.js").Store} store */
  constructor(store) {
    this.store = store;
    this.zoomed = false;
    this.section = byId("interests");
    this.lead = byId("interests-lead");
    this.body = byId("interests-body");
  }

  /** Keeps the place of what is to come. */
  wait() {
    if (!this.body.childElementCount)
      this.body.replaceChildren(el("div", { class: "skeleton tall" }, el("span"), el("span")));
  }

  /** @param {View} view */
  show(view) {
    const { state, card, answer } = view;
    this.section.hidden = !state.history.length;
    if (!state.history.length) this.body.replaceChildren();
    if (!answer) return;
    if (!answer.told) {
      const why = answer.untold ?? `${card.model} scores all items at once: it has no vectors of interests to show.`;
      this.lead.textContent = "";
      this.body.replaceChildren(el("p", { class: "plain", id: "no-interests" }, `${why} Its candidates are below.`));
      return;
    }
    this.lead.textContent = lead(view);
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.interest : undefined;
    const single = answer.told.interests.length === 1;
    const cards =
      !(single && !answer.told.interests[0].attention) &&
      el("div", { class: "interest-cards" }, ...answer.told.interests.map((one) => this.card(view, one)));
    const panels = el("div", { class: "panels" }, this.where(view), this.what(view));
    this.body.replaceChildren(...[cards, panels].filter(Boolean));
    if (focused !== undefined) this.body.querySelector(`[data-interest='${focused}']`)?.focus();
  }

  card(view, one) {
    const { state, answer } = view;
    const chosen = state.interest === one.interest;
    const { told, before, after } = answer;
    const brings = (list) => list.items.filter((item) => item.interest === one.interest).length;
    const read = mostRead(told, one.interest, 3).map(({ column, share }) => {
      const title = el("span", { class: "read-title", text: name(told.history[column].item_id) });
      return el(
        "span",
        { class: "read" },
        title,
        el("span", { class: "read-share", text: `${Math.round(100 * share)} %` }),
      );
    });
    const count = before ? `${brings(before)} → ${brings(after)}` : String(brings(after));
    const most = Math.max(...told.interests.map((each) => each.moved)) || 1;
    const far =
      moves(told) &&
      el(
        "span",
        { class: "moved" },
        el("span", { class: "moved-bar", vars: { "--far": `${(100 * one.moved) / most}%` }, "aria-hidden": "true" }),
        el("span", { text: `moved ${one.moved.toFixed(2)}` }),
      );
    return el(
      "button",
      {
        type: "button",
        class: `interest-card ${tone(one.interest)}`,
        "data-interest": one.interest,
        "aria-pressed": String(chosen),
        onclick: () => this.store.set({ interest: chosen ? null : one.interest }),
      },
      el(
        "span",
        { class: "interest-head" },
        badge(one.interest),
        el("span", { class: "brings", text: `brings ${count} of ${after.items.length}` }),
      ),
      read.length > 0 && el("span", { class: "reads" }, el("span", { class: "small", text: "reads most" }), ...read),
      far,
    );
  }

  where({ state, answer }) {
    const { readout, tell } = spoken("Point at a dot for its name.");
    const box = el("div", { class: "plot" });
    const draw = (width) => box.replaceChildren(plane(answer.told, state.interest, this.zoomed, width, tell));
    const zoom = el("button", {
      type: "button",
      class: "zoom",
      "aria-pressed": String(this.zoomed),
      text: "Zoom to interests",
    });
    zoom.addEventListener("click", () => {
      this.zoomed = !this.zoomed;
      zoom.setAttribute("aria-pressed", String(this.zoomed));
      draw(box.clientWidth);
    });
    drawn(box, draw);
    const head = el(
      "div",
      { class: "panel-head" },
      el("h3", { text: "Where they lie" }),
      answer.told.interests.length > 1 && zoom,
    );
    return el("figure", { class: "panel" }, head, legend(answer.told, state.interest), box, readout);
  }

  what({ state, answer, steps }) {
    const { told } = answer;
    const moved = moves(told);
    const refines = moved || steps !== null;
    const all = told.interests.map((one) => one.interest);
    const shown = state.interest === null ? all : [state.interest];
    const most = furthest(told, refines);
    const { readout, tell } = spoken("Point at a bar for its numbers; arrow keys go along.");
    const boxes = shown.map((interest) => {
      const box = el("div", { class: "plot" });
      const height = shown.length === 1 ? 300 : Math.max(48, Math.round(340 / shown.length));
      const how = { moved: refines, height, most, tell };
      drawn(box, (width) => box.replaceChildren(dimensions(told, interest, { ...how, width })));
      return el("div", { class: "bars" }, shown.length > 1 && badge(interest), box);
    });
    return el(
      "figure",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h3", {
          text: refines
            ? "What moved, by dimension"
            : told.interests.length > 1
              ? "The vectors, by dimension"
              : "The vector, by dimension",
        }),
      ),
      el("p", { class: "legend", text: sentence(refines, moved, shown.length === 1) }),
      ...boxes,
      readout,
    );
  }
}

/** A line below a picture for what is pointed at. */
function spoken(hint) {
  const readout = el("p", { class: "readout", "aria-hidden": "true", text: hint });
  return { readout, tell: (text) => (readout.textContent = text || hint) };
}

function sentence(refines, moved, single) {
  if (refines && !moved) return "Without a step of refinement nothing moves.";
  const what = refines ? "Refined minus coarse" : single ? "Its values" : "Their values";
  return single ? `${what}; the largest are numbered.` : `${what}, all on one scale.`;
}

function lead({ card, answer, steps }) {
  const { told } = answer;
  const count = told.interests.length;
  const found = `${card.model} found ${count === 1 ? "one interest" : `${count} interests`} in this history`;
  if (moves(told)) return `${found}. Refinement moved each of them; choose one to look closer.`;
  if (steps !== null) return `${found}, shown as they were extracted: there is no step of refinement.`;
  const them = count === 1 ? "it: its vector is" : "them: their vectors are";
  return `${found}. It does not refine ${them} shown as extracted.`;
}
