/** Items that the page has met, by id, so that a history of ids has titles. */

import { get } from "./api.js";

/** @typedef {import("./types.js").Item} Item */

/** @type {Map<string, Item>} */
const met = new Map();
/** @type {Set<string>} */
const sought = new Set();
const AT_ONCE = 4;

/** @param {any[]} items as the service names them @returns {any[]} the same with ids as texts */
export function remembered(items) {
  return items.map((one) => {
    const item = { ...one, item_id: String(one.item_id) };
    met.set(item.item_id, { item_id: item.item_id, title: item.title, category: item.category });
    return item;
  });
}

/** @param {string} id @returns {Item} with a title if it is known by now */
export function item(id) {
  return met.get(id) ?? { item_id: id, title: null, category: null };
}

/** @param {string} id @returns {string} the title, or the id where there is none */
export function name(id) {
  return item(id).title || id;
}

/** Forgets all: another model may have another catalogue. */
export function forget() {
  met.clear();
  sought.clear();
}

/**
 * Looks up those of these ids that were never met.
 *
 * @param {string[]} ids
 * @returns {Promise<boolean>} whether something was found
 */
export async function lookUp(ids) {
  const missing = [...new Set(ids)].filter((id) => !met.has(id) && !sought.has(id));
  const before = met.size;
  for (const id of missing) sought.add(id);
  while (missing.length) {
    await Promise.all(missing.splice(0, AT_ONCE).map(lookUpOne));
  }
  return met.size > before;
}

async function lookUpOne(id) {
  try {
    const found = await get(`v1/items?limit=1&q=${encodeURIComponent(id)}`);
    const [first] = found.items;
    if (first && String(first.item_id) === id) remembered([first]);
  } catch {
    sought.delete(id); // an id without its title is still shown; it may be found another time
  }
}
