/** Elements made from plain values: text is only ever set as text, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id @returns {HTMLElement} the element of the page's own skeleton */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * An element with attributes, listeners (`onclick`) and children; `text` becomes its text, `vars` custom properties.
 * An attribute that is null, undefined or false is left out, true is set empty.
 *
 * @param {string} name
 * @param {Object<string, any>} [attributes]
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {HTMLElement}
 */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. @returns {SVGElement} */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "vars") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** @param {string} text @returns {HTMLElement} read aloud, not seen */
export function unseen(text) {
  return el("span", { class: "visually-hidden", text });
}

/** @param {number|null} interest from 0 @returns {string} the class that carries its colour; eight, then again */
export function tone(interest) {
  return interest === null ? "" : `tone-${interest % 8}`;
}

/** @param {number} interest from 0 @returns {HTMLElement} its number on its colour */
export function badge(interest) {
  return el("span", { class: `badge ${tone(interest)}` }, unseen("interest "), String(interest + 1));
}

/**
 * Draws now, and again whenever the width changes; ends by itself when the node has left the page.
 *
 * @param {Element} node
 * @param {(width: number) => void} draw
 */
export function drawn(node, draw) {
  let last = 0;
  const observer = new ResizeObserver(() => {
    if (!node.isConnected) return observer.disconnect();
    const width = Math.floor(node.clientWidth);
    if (width > 0 && width !== last) draw((last = width));
  });
  observer.observe(node);
}

/** @param {() => void} act @param {number} wait milliseconds of quiet before it @returns {() => void} */
export function debounced(act, wait) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  };
}

/** @param {number} value @returns {string} with a true minus sign, always signed */
export function signed(value, digits = 3) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
}

/** @param {number} count @param {string} one @param {string} [many] @returns {string} "1 item", "2 items" */
export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}
