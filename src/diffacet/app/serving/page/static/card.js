/** The model card, in a dialog. */

import { byId, el } from "./dom.js";

/** @typedef {import("./types.js").Card} Card */

const TASKS = {
  matching: "the items of the near future",
  "next-item": "the next item",
  collaborative: "the rest of a user's items",
};

/** @param {Card} card */
export function showCard(card) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("card"));
  const close = el("button", {
    type: "button",
    class: "icon",
    "aria-label": "Close",
    text: "×",
    onclick: () => dialog.close(),
  });
  const trained = card.trained
    ? new Date(card.trained).toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" })
    : null;
  const steps = card.refine_steps && `${card.refine_steps.default} of ${card.refine_steps.max}`;
  const users = card.data.users ? `${card.data.users.toLocaleString("en")} users, ` : "";
  const facts = {
    Model: `${card.model}, ${card.summary}`,
    Task: TASKS[card.task] ? `${card.task}: ${TASKS[card.task]}` : card.task,
    Preset: card.preset,
    Paper: card.paper,
    Trained: trained,
    Version: card.version,
    Data: `${card.data.name}: ${users}${card.data.items.toLocaleString("en")} items`,
    Fingerprint: card.data.fingerprint,
    Interests: card.interests,
    Dimensions: card.dim,
    "Items read": card.length || "all",
    "Refinement steps": steps,
    Index: card.index,
  };
  dialog.replaceChildren(
    el("div", { class: "dialog-head" }, el("h2", { id: "card-title", text: "Model card" }), close),
    listed(facts),
    el("h3", { text: "On validation" }),
    metrics(card.metrics),
    el("h3", { text: "Settings" }),
    listed(card.settings),
  );
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  dialog.showModal();
}

function listed(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el(
    "dl",
    {},
    ...pairs.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: String(value) })]),
  );
}

/** "recall@20" and "recall@50" are one row with two columns. */
function metrics(values) {
  const cuts = [...new Set(Object.keys(values).map((name) => name.split("@")[1] ?? ""))];
  const names = [...new Set(Object.keys(values).map((name) => name.split("@")[0]))];
  if (!names.length) return el("p", { class: "plain", text: "Nothing was measured when it was trained." });
  const number = (name, cut) => {
    const value = values[cut ? `${name}@${cut}` : name];
    return value === null || value === undefined ? "" : value.toFixed(4);
  };
  const head = cuts.map((cut) => el("th", { scope: "col", class: "num", text: cut ? `@ ${cut}` : "value" }));
  const rows = names.map((name) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", text: name }),
      ...cuts.map((cut) => el("td", { class: "num", text: number(name, cut) })),
    ),
  );
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "metric" }), ...head)),
    el("tbody", {}, ...rows),
  );
}
