// Elements from text: whatever came from a server or a file goes in as text, never as markup.

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. `props`: `class`, `data` (an object), `on…` (handlers), else an attribute; false and null
 * are left out. `children`: nodes, and anything else as text; null is left out.
 */
export function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) put(node, name, value);
  node.append(...children.flat().filter((one) => one != null && one !== false));
  return node;
}

function put(node, name, value) {
  if (value == null || value === false) return;
  if (name === "data") Object.assign(node.dataset, value);
  else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else node.setAttribute(name, value === true ? "" : value);
}

/** Shows `text` in `node`, or hides it where there is none. */
export function tell(node, text) {
  node.textContent = text ?? "";
  node.hidden = !text;
}

const ANNOUNCE_MS = 400;
let announced = [];

/** Has a screen reader say `text` when it is free: ends of answers, not their words one by one. */
export function announce(text) {
  if (!announced.length) setTimeout(sayAnnounced, ANNOUNCE_MS);
  announced.push(text);
}

function sayAnnounced() {
  const live = byId("live");
  const text = announced.join(". ");
  live.textContent = live.textContent === text ? `${text}\u00a0` : text;
  announced = [];
}

/** Copies `text`; where the page is not allowed to (plain http on another machine), by an old way. */
export async function copy(text, button, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
  const shown = button.textContent;
  button.textContent = "copied";
  announce(`${what} copied`);
  setTimeout(() => { button.textContent = shown; }, 1200);
}

function copyBySelection(text) {
  const field = make("textarea", { class: "unseen", readonly: true });
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  const before = document.activeElement;
  field.select();
  document.execCommand("copy");
  field.remove();
  before?.focus();
}
