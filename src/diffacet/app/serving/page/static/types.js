/**
 * The shapes that the service answers with; no code. Ids are texts here, whatever they are in the log.
 *
 * @typedef {{item_id: string, title: string|null, category: string|null}} Item
 * @typedef {Item & {score: number, interest: number}} Candidate
 * @typedef {{model_version: string, items: Candidate[], unknown: string[], notes: string[]}} Recommended
 * @typedef {{interest: number, coarse: number[], refined: number[], moved: number, attention: number[]|null,
 *   kept: boolean[]|null}} Interest
 * @typedef {[number, number]} Point
 * @typedef {{model_version: string, history: Item[], interests: Interest[], unknown: string[], cut: number,
 *   refine_steps: number|null, plane: {coarse: Point[], refined: Point[], items: Point[]}, notes: string[]}} Explained
 * @typedef {{name: string, history: Item[], next: string[]}} Example
 * @typedef {{model: string, preset: string, task: string, summary: string, paper: string, version: string,
 *   trained: string|null, data: {name: string, fingerprint: string, items: number, users: number|null},
 *   metrics: Object<string, number|null>, settings: Object<string, unknown>, interests: number|null, dim: number|null,
 *   length: number, index: string, refine_steps: {default: number, max: number}|null, categories: string[],
 *   can: Object<string, boolean>}} Card
 *
 * What the page holds: everything that is asked and shown is a function of these.
 *
 * @typedef {{history: string[], user: number|null, steps: number|null, k: number, diversity: number,
 *   categories: string[], hideSeen: boolean, interest: number|null, view: "list"|"groups"}} State
 * @typedef {{before: Recommended|null, after: Recommended, told: Explained|null, untold: string|null,
 *   history: string[]}} Answer of this history
 * @typedef {{state: State, card: Card, answer: Answer|null, next: Set<string>|null, steps: number|null}} View
 */
export {};
