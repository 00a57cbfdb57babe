// What the user sets: the key for this tab alone (sessionStorage), the rest for next time too.

import { byId } from "./dom.js";

const DEFAULTS = { maxTokens: 64, temperature: 0 };
const changes = new EventTarget();
let spare = {}; // where the browser keeps nothing

function read(storage, name) {
  try {
    return storage().getItem(name);
  } catch {
    return spare[name] ?? null;
  }
}

function keep(storage, name, value) {
  try {
    if (value) storage().setItem(name, value);
    else storage().removeItem(name);
  } catch {
    spare = { ...spare, [name]: value };
  }
}

const forTab = () => sessionStorage;
const forLater = () => localStorage;

/** The API key, "" where there is none. */
export const apiKey = () => read(forTab, "api-key") ?? "";

/** `{ max_tokens, temperature }`, as requests say them. */
export function sampling() {
  const number = (name) => {
    const kept = read(forLater, name);
    return kept === null || kept === "" ? DEFAULTS[name] : Number(kept);
  };
  return { max_tokens: number("maxTokens"), temperature: number("temperature") };
}

/** Calls `told` whenever the user saves. */
export const onSettings = (told) => changes.addEventListener("change", told);

/** Opens the dialog. */
export function openSettings() {
  const { max_tokens, temperature } = sampling();
  byId("key").value = apiKey();
  byId("max-tokens").value = max_tokens;
  byId("temperature").value = temperature;
  byId("settings").showModal();
}

function save() {
  keep(forTab, "api-key", byId("key").value.trim());
  keep(forLater, "maxTokens", byId("max-tokens").value);
  keep(forLater, "temperature", byId("temperature").value);
  changes.dispatchEvent(new Event("change"));
}

/** Wires the dialog. */
export function startSettings() {
  byId("open-settings").addEventListener("click", openSettings);
  byId("settings-cancel").addEventListener("click", () => byId("settings").close());
  byId("settings-form").addEventListener("submit", save);
}
