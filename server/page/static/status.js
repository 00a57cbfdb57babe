// The server's state in a few words: in the header always, in a notice where the user has to know more.

import { catalog, lookAfresh } from "./catalog.js";
import { byId, make } from "./dom.js";
import { openSettings } from "./settings.js";

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const served = () => `${catalog.model} · ${count(catalog.tasks.length, "task")}`;

const WORDS = {
  waiting: () => "Looking for the server…",
  ready: served,
  degraded: () => `${served()} · ${count(catalog.refused.length, "bundle")} refused`,
  starting: () => "The engine is starting…",
  engine_down: () => "The engine is down",
  no_tasks: () => `${catalog.model ?? "Server"} · every bundle is refused`,
  silent: () => "No answer",
  locked: () => "An API key is wanted",
  wrong_key: () => "The API key is refused",
};

const NOTICES = {
  starting: () => ["The engine is starting. ", "The page goes on as soon as it answers; nothing to do."],
  engine_down: () => ["The engine is down. ", "The server's log says why. The page looks again."],
  silent: () => ["The server does not answer. ", "The page looks again."],
  no_tasks: () => ["Every bundle is refused. ", make("a", { href: "#tasks" }, "See the faults.")],
  locked: () => [
    "This server wants an API key. ",
    make("button", { type: "button", onclick: openSettings }, "Enter the key"),
  ],
  wrong_key: () => [
    "The server refused this API key. ",
    make("button", { type: "button", onclick: openSettings }, "Correct the key"),
  ],
  ready: () => (catalog.tasks.length ? null : [
    "No task is served yet. ",
    "The base model answers alone. Put a bundle into the store, and it appears here: ",
    make("code", {}, "passepartout task put BUNDLE STORE"),
  ]),
};

/** Shows what the catalog says. */
export function showStatus() {
  const { state } = catalog;
  byId("status").dataset.state = state;
  byId("status-text").textContent = (WORDS[state] ?? (() => state))();
  const parts = NOTICES[state]?.();
  byId("notice").hidden = !parts;
  byId("notice").replaceChildren(...(parts ?? []));
}

/** Looks again at once when the user comes back to the page. */
export function startStatus() {
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) lookAfresh();
  });
}
