/** What moved, dimension by dimension: refined minus coarse as bars, or the vector where nothing refines. */

import { el, signed, svg, tone } from "./dom.js";

/** @typedef {import("./types.js").Explained} Explained */

const NAMED = 3;

/** @param {Explained} told @param {boolean} moved @param {number} interest @returns {number[]} */
function values(told, moved, interest) {
  const { coarse, refined } = told.interests[interest];
  return moved ? refined.map((value, at) => value - coarse[at]) : refined;
}

/**
 * The bars of one interest; one stop for the keyboard, whose arrows go from dimension to dimension.
 *
 * @param {Explained} told
 * @param {number} interest
 * @param {{moved: boolean, width: number, height: number, most: number, tell: (text: string) => void}} how
 * @returns {HTMLElement}
 */
export function dimensions(told, interest, how) {
  const { moved, width, height, tell } = how;
  const bars = values(told, moved, interest);
  const { coarse, refined } = told.interests[interest];
  const room = height > 100 ? 15 : 3; // for the numbers of the largest
  const unit = (height / 2 - room) / (how.most || 1);
  const step = width / bars.length;
  const text = (at) => {
    const head = `dimension ${at + 1} of ${bars.length}`;
    if (!moved) return `${head}: ${signed(refined[at])}`;
    return `${head}: ${signed(coarse[at])} → ${signed(refined[at])}, moved ${signed(bars[at])}`;
  };
  const drawn = bars.map((value, at) => {
    const long = Math.max(Math.abs(value) * unit, 0.5);
    const y = value >= 0 ? height / 2 - long : height / 2;
    return svg("rect", {
      class: "bar",
      x: (at * step + step * 0.12).toFixed(2),
      y: y.toFixed(2),
      width: (step * 0.76).toFixed(2),
      height: long.toFixed(2),
    });
  });
  const numbers = room > 3 ? largest(bars).map((at) => numbered(bars, at, { step, unit, height, width })) : [];
  const axis = svg("line", { class: "axis", x1: 0, x2: width, y1: height / 2, y2: height / 2 });
  const cursor = svg("rect", { class: "cursor", y: 0, width: step.toFixed(2), height, visibility: "hidden" });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    cursor,
    ...drawn,
    axis,
    ...numbers,
  );
  const what = moved ? "refined minus coarse" : "vector";
  const box = el(
    "div",
    {
      class: `dimensions ${tone(interest)}`,
      tabindex: 0,
      role: "slider",
      "aria-label": `Interest ${interest + 1}, ${what}: dimension`,
      "aria-valuemin": 1,
      "aria-valuemax": bars.length,
    },
    picture,
  );
  const point = (at) => {
    cursor.setAttribute("x", (at * step).toFixed(2));
    cursor.setAttribute("visibility", "visible");
    box.setAttribute("aria-valuenow", String(at + 1));
    box.setAttribute("aria-valuetext", text(at));
    tell(text(at));
  };
  listen(box, bars, point, () => {
    cursor.setAttribute("visibility", "hidden");
    tell("");
  });
  box.setAttribute("aria-valuenow", String(largest(bars)[0] + 1));
  box.setAttribute("aria-valuetext", text(largest(bars)[0]));
  return box;
}

function listen(box, bars, point, leave) {
  let now = largest(bars)[0];
  const end = bars.length - 1;
  box.addEventListener("focus", () => point(now));
  box.addEventListener("blur", leave);
  box.addEventListener("pointermove", (event) => {
    const { left, width } = box.getBoundingClientRect();
    point((now = Math.min(end, Math.max(0, Math.floor(((event.clientX - left) / width) * bars.length)))));
  });
  box.addEventListener("pointerleave", () => document.activeElement !== box && leave());
  box.addEventListener("keydown", (event) => {
    const steps = {
      ArrowLeft: -1,
      ArrowDown: -1,
      ArrowRight: 1,
      ArrowUp: 1,
      PageDown: -10,
      PageUp: 10,
      Home: -end,
      End: end,
    };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    point((now = Math.min(end, Math.max(0, now + step))));
  });
}

/** @param {number[]} bars @returns {number[]} places of the largest, by size */
function largest(bars) {
  const order = bars.map((value, at) => [Math.abs(value), at]).sort((one, other) => other[0] - one[0]);
  return order.slice(0, NAMED).map(([, at]) => at);
}

function numbered(bars, at, { step, unit, height, width }) {
  const value = bars[at];
  const x = Math.min(width - 9, Math.max(9, (at + 0.5) * step));
  const y = height / 2 - value * unit + (value >= 0 ? -4 : 12);
  return svg(
    "text",
    { class: "bar-number", x: x.toFixed(1), y: y.toFixed(1), "text-anchor": "middle" },
    String(at + 1),
  );
}

/** @param {Explained} told @param {boolean} moved @returns {number} the largest size of all bars: one scale for all */
export function furthest(told, moved) {
  return Math.max(...told.interests.flatMap((one) => values(told, moved, one.interest).map(Math.abs)));
}
