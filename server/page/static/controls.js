// Small controls that several views have.

import { copy, make } from "./dom.js";

const DIGEST_SHOWN = 10;

/** A button that is not loud. `more`: further attributes. */
export const quietButton = (label, onclick, more = {}) =>
  make("button", { type: "button", class: "quiet", onclick, ...more }, label);

/** The first digits of a digest; pressed, it copies all of them. */
export function digestButton(digest) {
  const shown = digest.slice(0, DIGEST_SHOWN);
  const told = { title: `Copy the digest ${digest}`, "aria-label": `Copy the digest, ${shown}` };
  const button = make("button", { type: "button", class: "digest", ...told }, shown);
  button.addEventListener("click", () => copy(digest, button, "Digest"));
  return button;
}

/** Copies what `write` returns when it is pressed. */
export function copyButton(label, write) {
  const told = { title: `Copy the request as ${label}` };
  const button = quietButton(`Copy ${label}`, () => copy(write(), button, `Request as ${label}`), told);
  return button;
}

/** How a task was made, in a small frame. */
export const badge = (words) => make("span", { class: "badge" }, words);
