// Who answers: the base model and any of the tasks. Checkboxes that look like chips.

import { catalog, findTask, isListed, isLocked } from "./catalog.js";
import { byId, make, tell } from "./dom.js";

const MANY = 12;
const FIRST_CHOICE = 3;
const BASE = "";

const chosen = new Set([BASE]);
let wasChosen = false; // by the user, or by the first sight of the tasks
let told = () => {};

/** The chosen: null for the base model first, then tasks as the catalog has them. */
export function targets() {
  const tasks = catalog.tasks.filter((task) => chosen.has(task.id));
  return chosen.has(BASE) ? [null, ...tasks] : tasks;
}

/** Has `name` answer, and where `alone` no other task. */
export function choose(name, { alone = false } = {}) {
  if (alone) chosen.forEach((one) => one !== BASE && chosen.delete(one));
  if (findTask(name)) chosen.add(name);
  wasChosen = true;
  showChips();
  told();
}

/** Wires the chips; `onChange` is called whenever another is chosen. */
export function startChips(onChange) {
  told = onChange;
  byId("filter").addEventListener("input", showChips);
  byId("filter").addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
}

/** Draws the chips: all of few, the chosen and the filtered of many. */
export function showChips() {
  if (!wasChosen && catalog.tasks.length) {
    catalog.tasks.slice(0, FIRST_CHOICE).forEach((task) => chosen.add(task.id));
    wasChosen = true;
  }
  const isMany = catalog.tasks.length > MANY;
  byId("filter").hidden = !isMany;
  const words = isMany ? byId("filter").value.trim().toLowerCase() : "";
  const found = catalog.tasks.filter((task) => matches(task, words));
  const shown = catalog.tasks.filter((task) => chosen.has(task.id));
  shown.push(...found.filter((task) => !chosen.has(task.id)).slice(0, MANY));
  draw(shown);
  const left = found.filter((task) => !shown.includes(task)).length;
  tell(byId("chips-hint"), left ? `and ${left} more: filter by name` : emptyHint(found, words));
}

/** Whether a task's name or description has those lower-case words in it. */
export const matches = (task, words) => `${task.id} ${task.description ?? ""}`.toLowerCase().includes(words);

function emptyHint(found, words) {
  if (words && !found.length) return "No task of that name.";
  if (isLocked()) return "Tasks are hidden until the server knows your key.";
  if (catalog.tasks.length || !isListed()) return "";
  return "No task is served: the base model answers alone.";
}

function draw(tasks) {
  const focused = document.activeElement?.dataset?.task;
  byId("chips").replaceChildren(chip(BASE, "base model", "as it is, without a task"), ...tasks.map(taskChip));
  if (focused !== undefined) byId("chips").querySelector(`[data-task="${CSS.escape(focused)}"]`)?.focus();
}

const taskChip = (task) => chip(task.id, task.id, task.description ?? "");

function chip(name, label, title) {
  const about = { type: "checkbox", class: "unseen", data: { task: name } };
  const box = make("input", { ...about, onchange: () => turn(name) });
  box.checked = chosen.has(name);
  return make("label", { class: "chip", title }, box, make("span", {}, label));
}

function turn(name) {
  if (!chosen.delete(name)) chosen.add(name);
  wasChosen = true;
  told();
}
