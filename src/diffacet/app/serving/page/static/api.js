/** The service's API: JSON out and in, a key where one is asked for, every failure an ApiError. */

const KEY = "diffacet-key";

/** What went wrong: the service's own code and message, or "gone" where nothing answers. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 where there was no answer
   * @param {string} code
   * @param {string} message
   * @param {string|null} [field]
   */
  constructor(status, code, message, field = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.field = field;
  }
}

/** @param {string} key kept for this tab only */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** @returns {boolean} whether a key is in use */
export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

/** @param {string} path relative to the page @param {AbortSignal} [signal] @returns {Promise<any>} */
export function get(path, signal) {
  return asked(path, { signal });
}

/** @param {string} path @param {object} body @param {AbortSignal} [signal] @returns {Promise<any>} */
export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return asked(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function asked(path, options) {
  const headers = { Accept: "application/json", ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer, text;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "same-origin", cache: "no-store" });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "gone", "The service does not answer. It may have stopped, or the network is down.");
  }
  const value = parsed(text);
  if (answer.ok && value !== undefined) return value;
  const told = value?.error;
  if (!told) throw new ApiError(answer.status, "unreadable", `The service answered ${answer.status} without a reason.`);
  throw new ApiError(answer.status, told.code, told.message, told.field);
}

/** JSON whose ids are texts, with all digits of those that are larger than a number here can be. */
function parsed(text) {
  try {
    return JSON.parse(text, (name, value, context) => {
      if (typeof value !== "number" || Number.isSafeInteger(value) || !Number.isInteger(value)) return value;
      return /^-?\d+$/.test(context?.source ?? "") ? context.source : value;
    });
  } catch {
    return undefined;
  }
}
