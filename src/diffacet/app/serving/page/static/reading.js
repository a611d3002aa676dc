/** Which items of the history the model reads: pure, no page. */

/** @typedef {"read"|"older"|"unknown"} Fate */
/** @typedef {{id: string, fate: Fate, column: number|null}} Place column: of attention, where it is read */

/**
 * @param {string[]} history oldest first
 * @param {string[]} unknown ids that the catalogue does not hold
 * @param {number|null} read how many of the newest known items are read; null: all
 * @returns {Place[]}
 */
export function places(history, unknown, read) {
  const strange = new Set(unknown);
  const known = history.filter((id) => !strange.has(id)).length;
  const skipped = read === null ? 0 : Math.max(0, known - read);
  let seen = 0;
  return history.map((id) => {
    if (strange.has(id)) return { id, fate: "unknown", column: null };
    const at = seen++ - skipped;
    return at < 0 ? { id, fate: "older", column: null } : { id, fate: "read", column: at };
  });
}

/**
 * @param {import("./types.js").View} view
 * @returns {Place[]} of the history as it was answered
 */
export function placesOf({ state, card, answer }) {
  if (!answer) return places(state.history, [], null);
  const { told, after } = answer;
  return places(state.history, told?.unknown ?? after.unknown, told ? told.history.length : card.length || null);
}

/**
 * The items that an interest looks at most.
 *
 * @param {import("./types.js").Explained} told
 * @param {number} interest
 * @param {number} count
 * @returns {{column: number, share: number}[]} largest first
 */
export function mostRead(told, interest, count) {
  const shares = told.interests[interest].attention ?? [];
  const order = shares.map((share, column) => ({ column, share }));
  return order.sort((one, other) => other.share - one.share || one.column - other.column).slice(0, count);
}
