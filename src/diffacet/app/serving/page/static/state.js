/** What the page holds, and the same as the address after "#", so that a view can be shared and reloaded. */

/** @typedef {import("./types.js").State} State */

/** @type {State} */
export const START = Object.freeze({
  history: [],
  user: null,
  steps: null,
  k: 20,
  diversity: 0,
  categories: [],
  hideSeen: true,
  interest: null,
  view: "list",
});
export const SIZES = [10, 20, 50];

/** @param {State} state @returns {string} only what differs from the start, "" for the start itself */
export function toHash(state) {
  const listed = (values) => values.map(encodeURIComponent).join(",");
  const parts = [];
  if (state.history.length) parts.push(`h=${listed(state.history)}`);
  if (state.user !== null) parts.push(`u=${state.user + 1}`);
  if (state.steps !== null) parts.push(`s=${state.steps}`);
  if (state.k !== START.k) parts.push(`k=${state.k}`);
  if (state.diversity > 0) parts.push(`d=${state.diversity}`);
  if (state.categories.length) parts.push(`c=${listed(state.categories)}`);
  if (!state.hideSeen) parts.push("seen=1");
  if (state.interest !== null) parts.push(`i=${state.interest + 1}`);
  if (state.view !== START.view) parts.push(`v=${state.view}`);
  return parts.join("&");
}

/** @param {string} hash with or without "#"; what cannot be read is passed over @returns {State} */
export function fromHash(hash) {
  const found = new Map();
  for (const part of hash.replace(/^#/, "").split("&")) {
    const at = part.indexOf("=");
    if (at > 0) found.set(part.slice(0, at), part.slice(at + 1));
  }
  const listed = (name) =>
    (found.get(name) ?? "")
      .split(",")
      .map(decoded)
      .filter((one) => one !== "");
  const whole = (name, least) => {
    const value = found.get(name) ?? "";
    return /^\d{1,6}$/.test(value) && Number(value) >= least ? Number(value) : null;
  };
  const from1 = (name) => (whole(name, 1) === null ? null : whole(name, 1) - 1);
  const k = whole("k", 1);
  const diversity = Number(found.get("d") ?? 0);
  return {
    history: listed("h"),
    user: from1("u"),
    steps: whole("s", 0),
    k: SIZES.includes(k) ? k : START.k,
    diversity: Number.isFinite(diversity) && diversity > 0 ? diversity : 0,
    categories: listed("c"),
    hideSeen: found.get("seen") !== "1",
    interest: from1("i"),
    view: found.get("v") === "groups" ? "groups" : "list",
  };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** Holds the state and tells who listens which of its fields have changed. */
export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    /** @type {((changed: Set<string>) => void)[]} */
    this.listeners = [];
  }

  /** @param {(changed: Set<string>) => void} listener */
  listen(listener) {
    this.listeners.push(listener);
  }

  /** @param {Partial<State>} patch */
  set(patch) {
    const same = (name) => JSON.stringify(this.state[name]) === JSON.stringify(patch[name]);
    const changed = new Set(Object.keys(patch).filter((name) => !same(name)));
    if (!changed.size) return;
    this.state = { ...this.state, ...patch };
    for (const listener of this.listeners) listener(changed);
  }
}
