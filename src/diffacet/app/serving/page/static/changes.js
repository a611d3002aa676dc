/** What refinement did to a list: pure comparison, no page. */

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {{kind: "up"|"down"|"same"|"new"|"gone"|"none", by: number}} Change */
/** @typedef {{item: Candidate, rank: number, change: Change, other: Candidate|null}} Row */
/** @typedef {{up: number, down: number, same: number, new: number, gone: number}} Counts */
/** @typedef {{before: Row[], after: Row[], counts: Counts}} Compared */

/**
 * @param {Candidate[]|null} before null: there is nothing to compare with
 * @param {Candidate[]} after
 * @returns {Compared}
 */
export function compare(before, after) {
  const counts = { up: 0, down: 0, same: 0, new: 0, gone: 0 };
  const was = places(before ?? []);
  const is = places(after);
  /** @param {Candidate} item @param {number} at @returns {Change} */
  const change = (item, at) => {
    if (!before) return { kind: "none", by: 0 };
    const old = was.get(item.item_id);
    if (old === undefined) return { kind: "new", by: 0 };
    if (old === at) return { kind: "same", by: 0 };
    return { kind: old > at ? "up" : "down", by: Math.abs(old - at) };
  };
  const rows = after.map((item, at) => {
    const other = before?.[was.get(item.item_id)] ?? null;
    return { item, rank: at + 1, change: change(item, at), other };
  });
  const olds = (before ?? []).map((item, at) => {
    const other = after[is.get(item.item_id)] ?? null;
    return { item, rank: at + 1, change: { kind: other ? "none" : "gone", by: 0 }, other };
  });
  for (const row of [...rows, ...olds]) if (row.change.kind !== "none") counts[row.change.kind] += 1;
  return { before: olds, after: rows, counts };
}

/** @param {Candidate[]} items @returns {Map<string, number>} id to place, from 0 */
function places(items) {
  return new Map(items.map((item, at) => [item.item_id, at]));
}

/** @param {Candidate[]} items @param {Set<string>} next @returns {number} how many of them the user took next */
export function hits(items, next) {
  return items.filter((item) => next.has(item.item_id)).length;
}
