/** The projection: items of the history, interests before and after refinement, in their two principal axes. */

import { name } from "./catalogue.js";
import { el, svg, tone } from "./dom.js";
import { mostRead } from "./reading.js";

/** @typedef {import("./types.js").Explained} Explained */
/** @typedef {import("./types.js").Point} Point */

const PAD = 26;
const WIDE_PAD = 60;
const BIG = 8.5;
const SMALL = 6;

/**
 * @param {Explained} told
 * @param {number|null} chosen
 * @param {boolean} zoomed in on the interests
 * @param {number} width in pixels
 * @param {(text: string) => void} tell what is pointed at
 * @returns {SVGElement}
 */
export function plane(told, chosen, zoomed, width, tell) {
  const height = Math.round(Math.min(400, Math.max(260, width * 0.62)));
  const at = scale(told, zoomed, width, height);
  const order = told.interests.map((one) => one.interest).sort((a, b) => (a === chosen) - (b === chosen));
  const hit = (node, text) => {
    node.addEventListener("pointerenter", () => tell(text));
    node.addEventListener("pointerleave", () => tell(""));
    return node;
  };
  const label = `Projection of ${told.history.length} items and ${told.interests.length} interests. ${distances(told)}`;
  return svg(
    "svg",
    { class: "plane", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    heads(told),
    ...told.plane.items.map((point, column) =>
      hit(dot(told, chosen, column, at(point)), name(told.history[column].item_id)),
    ),
    ...labels(told, chosen, at, width),
    ...order.map((one) => hit(mark(told, one, chosen, at), words(told, one))),
  );
}

/** @param {Explained} told @returns {boolean} whether refinement moved anything */
export function moves(told) {
  return told.interests.some((one) => one.moved > 0);
}

function words(told, one) {
  const { moved } = told.interests[one];
  return `interest ${one + 1}: ${moves(told) ? `moved ${moved.toFixed(3)}` : "not refined"}`;
}

function distances(told) {
  return told.interests.map((one) => words(told, one.interest)).join("; ");
}

/** One scale for both axes: distances in the picture are distances in the plane. */
function scale(told, zoomed, width, height) {
  const { coarse, refined, items } = told.plane;
  const points = [...coarse, ...refined, ...(zoomed ? [] : items)];
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const pad = zoomed ? WIDE_PAD : PAD;
  const unit = Math.min((width - 2 * pad) / (right - left || 1), (height - 2 * pad) / (high - low || 1));
  return ([x, y]) => [width / 2 + unit * (x - (left + right) / 2), height / 2 - unit * (y - (low + high) / 2)];
}

/** Arrow heads, one for each colour. */
function heads(told) {
  return svg(
    "defs",
    {},
    ...told.interests.map(({ interest }) =>
      svg(
        "marker",
        {
          id: `head-${interest}`,
          viewBox: "0 0 8 8",
          refX: 7,
          refY: 4,
          markerWidth: 6,
          markerHeight: 6,
          orient: "auto",
        },
        svg("path", { d: "M0 0 8 4 0 8Z", class: `head ${tone(interest)}` }),
      ),
    ),
  );
}

/** An item; for one interest its size is the attention, hollow if pruned. */
function dot(told, chosen, column, [x, y]) {
  const one = chosen === null ? null : told.interests[chosen];
  const share = one?.attention?.[column] ?? null;
  const most = share === null ? 1 : Math.max(...one.attention);
  const r = share === null ? 4 : 3 + 6 * Math.sqrt(share / (most || 1));
  const pruned = one?.kept?.[column] === false;
  const classes = `dot ${share === null ? "" : tone(chosen)} ${pruned ? "pruned" : ""}`;
  return svg("circle", { class: classes, cx: x.toFixed(1), cy: y.toFixed(1), r: r.toFixed(1) });
}

/** One interest: hollow where it began, an arrow, filled where it ended. */
function mark(told, one, chosen, at) {
  const [x0, y0] = at(told.plane.coarse[one]);
  const [x1, y1] = at(told.plane.refined[one]);
  const far = Math.hypot(x1 - x0, y1 - y0);
  const group = svg("g", { class: `mark ${tone(one)} ${chosen !== null && chosen !== one ? "faint" : ""}` });
  if (told.interests[one].moved > 0) group.append(svg("circle", { class: "coarse", cx: x0, cy: y0, r: SMALL }));
  if (far > SMALL + BIG + 3) {
    const along = (r) => [(r * (x1 - x0)) / far, (r * (y1 - y0)) / far];
    const [from, to] = [along(SMALL), along(BIG + 1)];
    group.append(
      svg("line", {
        class: "arrow",
        x1: x0 + from[0],
        y1: y0 + from[1],
        x2: x1 - to[0],
        y2: y1 - to[1],
        "marker-end": `url(#head-${one})`,
      }),
    );
  }
  group.append(
    svg("circle", { class: "refined", cx: x1, cy: y1, r: BIG }),
    svg("text", { x: x1, y: y1, class: "mark-number", "text-anchor": "middle", dy: ".36em" }, String(one + 1)),
  );
  return group;
}

/** Names of the items that are looked at most, as far as there is room. */
function labels(told, chosen, at, width) {
  if (!told.interests[0].attention) return [];
  const wanted =
    chosen === null ? told.interests.flatMap(({ interest }) => mostRead(told, interest, 1)) : mostRead(told, chosen, 5);
  const marks = told.interests.flatMap(({ interest }) => [
    at(told.plane.refined[interest]),
    at(told.plane.coarse[interest]),
  ]);
  /** @type {number[][]} */
  const taken = marks.map(([x, y]) => [x - 13, y - 13, x + 13, y + 13]);
  const nodes = [];
  for (const column of new Set(wanted.map((one) => one.column))) {
    const full = name(told.history[column].item_id);
    const text = full.length > 24 ? `${full.slice(0, 23).trimEnd()}…` : full;
    const [x, y] = at(told.plane.items[column]);
    const long = text.length * 6.3;
    const left = x + 10 + long > width - 2;
    const box = left ? [x - 10 - long, y - 8, x - 8, y + 8] : [x + 8, y - 8, x + 10 + long, y + 8];
    if (box[0] < 0 || x < 0 || x > width || taken.some((other) => crosses(box, other))) continue;
    taken.push(box);
    nodes.push(
      svg(
        "text",
        { class: "item-label", x: left ? x - 11 : x + 11, y, dy: ".34em", "text-anchor": left ? "end" : "start" },
        text,
      ),
    );
  }
  return nodes;
}

function crosses([a, b, c, d], [e, f, g, h]) {
  return a < g && e < c && b < h && f < d;
}

/** @param {Explained} told @returns {HTMLElement} what the signs mean */
export function legend(told, chosen) {
  const sign = (kind, text) => el("span", { class: `sign ${kind}` }, text);
  const items = chosen !== null && told.interests[chosen].attention ? "item, by attention" : "item of the history";
  const pruned = chosen !== null && told.interests[chosen].kept ? sign("pruned-dot", "pruned") : null;
  const both = moves(told)
    ? [sign("coarse-dot", "coarse"), sign("refined-dot", "refined")]
    : [sign("refined-dot", "interest")];
  return el("p", { class: "legend" }, sign("item-dot", items), pruned, ...both);
}
