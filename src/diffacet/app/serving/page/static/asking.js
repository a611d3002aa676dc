/** What a state asks of the service: candidates before and after refinement, and the interests; the newest wins. */

import { ApiError, post } from "./api.js";
import { remembered } from "./catalogue.js";

/** @typedef {import("./types.js").State} State */
/** @typedef {import("./types.js").Card} Card */
/** @typedef {import("./types.js").Answer} Answer */

const KEPT = 200;

/** @param {State} state @param {Card} card @returns {number|null} S that is asked for; null where there is none */
export function stepsOf(state, card) {
  if (!card.refine_steps) return null;
  return Math.min(state.steps ?? card.refine_steps.default, card.refine_steps.max);
}

export class Asking {
  constructor() {
    /** @type {Map<string, any>} */
    this.answers = new Map();
    this.abort = new AbortController();
  }

  /** Forgets all answers: they are those of another version. */
  forget() {
    this.answers.clear();
  }

  /**
   * @param {State} state
   * @param {Card} card
   * @returns {Promise<Answer|null>} null where a newer call has overtaken this one
   */
  async ask(state, card) {
    this.abort.abort();
    const abort = (this.abort = new AbortController());
    try {
      const answer = await this.asked(state, card, abort.signal);
      return abort.signal.aborted ? null : answer;
    } catch (error) {
      if (abort.signal.aborted) return null;
      throw error;
    }
  }

  async asked(state, card, signal) {
    const steps = stepsOf(state, card);
    const wish = {
      history: state.history,
      k: state.k,
      exclude_seen: state.hideSeen,
      categories: state.categories.length ? state.categories : null,
      diversity: state.diversity,
    };
    const [before, after, told] = await Promise.all([
      steps === null ? null : this.recommended({ ...wish, refine_steps: 0 }, signal),
      this.recommended({ ...wish, refine_steps: steps }, signal),
      card.can.interests ? this.explained({ history: state.history, refine_steps: steps }, signal) : null,
    ]);
    const silent = told instanceof ApiError;
    const untold = silent ? told.message : null;
    return { before, after, told: silent ? null : told, untold, history: state.history };
  }

  async recommended(body, signal) {
    const answer = await this.once("v1/recommend", body, signal);
    return { ...answer, items: remembered(answer.items), unknown: answer.unknown.map(String) };
  }

  async explained(body, signal) {
    try {
      const answer = await this.once("v1/interests", body, signal);
      return { ...answer, history: remembered(answer.history), unknown: answer.unknown.map(String) };
    } catch (error) {
      if (error.code === "not_supported") return error;
      throw error;
    }
  }

  /** The same question has the same answer as long as the version stays. */
  async once(path, body, signal) {
    const question = `${path} ${JSON.stringify(body)}`;
    if (!this.answers.has(question)) {
      const answer = await post(path, body, signal);
      if (this.answers.size >= KEPT) this.answers.delete(this.answers.keys().next().value);
      this.answers.set(question, answer);
    }
    return this.answers.get(question);
  }
}
