// Every task that is served, as in an exhibition: what it looks like, what it is, what it was measured to do.

import { catalog, isListed, isLocked } from "./catalog.js";
import { matches } from "./chips.js";
import { badge, digestButton } from "./controls.js";
import { byId, make } from "./dom.js";
import { drawAccuracy, drawLayers } from "./figures.js";
import { drawPreview } from "./frame.js";
import { methodOf, percentOf, shapeOf } from "./words.js";

const FIRST = 60;
const MANY = 12;
let tryOut = () => {};

/** Wires the gallery; `onTry` is called with a task's name. */
export function startGallery(onTry) {
  tryOut = onTry;
  byId("gallery-filter").addEventListener("input", showGallery);
}

/** Draws what the catalog holds. */
export function showGallery() {
  const { tasks } = catalog;
  byId("gallery-filter").hidden = tasks.length <= MANY;
  const words = byId("gallery-filter").value.trim().toLowerCase();
  const found = tasks.filter((task) => matches(task, words));
  const shown = found.slice(0, FIRST);
  byId("gallery-count").textContent = summary(tasks, found, shown);
  const focused = byId("gallery-cards").contains(document.activeElement) && document.activeElement;
  byId("gallery-cards").replaceChildren(...(tasks.length ? shown.map(taskCard) : whyNone()));
  if (focused) refocus(focused.closest("article").dataset.task, focused.getAttribute("aria-label"));
  showRefused();
}

function refocus(name, label) {
  const again = byId("gallery-cards").querySelector(`[data-task="${CSS.escape(name)}"]`);
  const buttons = [...(again?.querySelectorAll("button") ?? [])];
  buttons.find((button) => button.getAttribute("aria-label") === label)?.focus();
}

function summary(tasks, found, shown) {
  if (!tasks.length) return "";
  const onDevice = tasks.filter((task) => task.on_device).length;
  const isCut = shown.length < found.length;
  const cut = isCut ? ` · the first ${shown.length} of ${found.length}: filter by name` : "";
  return `${tasks.length} served, ${onDevice} of them on the device${cut}`;
}

function whyNone() {
  if (!isLocked()) return isListed() ? [lesson()] : [];
  return [make("div", { class: "empty" },
    make("h2", {}, "Tasks are hidden"),
    make("p", {}, "They are shown once the server knows your key."))];
}

function lesson() {
  return make("div", { class: "empty" },
    make("h2", {}, "No tasks yet"),
    make("p", {}, "A task is a folder in the store. Train one, put it in, and it appears here; no restart."),
    make("pre", {}, "passepartout train m2pt --config CONFIG\npassepartout task put BUNDLE STORE"));
}

function showRefused() {
  const { refused } = catalog;
  byId("refused").hidden = !refused.length;
  byId("refused").replaceChildren(
    make("h2", {}, refused.length === 1 ? "One bundle is refused" : `${refused.length} bundles are refused`),
    make("p", {}, "Not served. Correct them in the store, and the server takes them at its next look."),
    ...refused.map(({ bundle, faults }) => make("details", { open: refused.length < 4 },
      make("summary", {}, bundle), make("ul", {}, faults.map((fault) => make("li", {}, fault))))));
}

function taskCard(task) {
  const title = `task-${task.id}`;
  return make("article", { class: "task", "aria-labelledby": title, data: { task: task.id } },
    portrait(task),
    make("div", { class: "label" },
      make("header", {}, make("h2", { id: title }, task.id), badge(methodOf(task))),
      task.description && make("p", {}, task.description),
      accuracy(task),
      facts(task),
      make("footer", {}, tryButton(task), !isSplit(task) && digestButton(task.digest), place(task))));
}

const isSplit = (task) => task.traffic?.length > 1;

/** Which versions share the task's traffic; what else the card says is of one of them. */
const versions = (task) => make("ul", { class: "versions" },
  task.traffic.map(({ version, digest, share }) => make("li", {},
    make("b", {}, percentOf(share)),
    make("div", {}, make("span", {}, `version ${version}`), digestButton(digest),
      digest === task.digest && make("small", {}, "described here")))));

const tryButton = ({ id }) =>
  make("button", { type: "button", onclick: () => tryOut(id), "aria-label": `Try ${id}` }, "Try it");

const place = ({ on_device: isThere }) =>
  make("span", { class: "place", data: { there: isThere } }, isThere ? "on the device" : "comes when asked");

function portrait(task) {
  const wall = make("div", { class: "portrait" });
  if (!task.frame) {
    wall.append(drawLayers(task));
    return wall;
  }
  drawPreview(task).then(
    (canvas) => {
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `The frame of ${task.id} around a grey picture`);
      wall.append(canvas);
    },
    (error) => wall.append(make("p", { class: "fault" }, error.message)),
  );
  return wall;
}

function facts(task) {
  const { frame, usage = {}, provenance = {} } = task;
  const rows = {
    version: !isSplit(task) && task.version,
    versions: isSplit(task) && versions(task),
    frame: frame && `${frame.canvas[1]} × ${frame.canvas[0]} pixels, picture ${frame.inner}`,
    text: task.text && shapeOf(task.text),
    vision: task.vision && shapeOf(task.vision),
    prefix: task.prefix && shapeOf(task.prefix),
    "own layers": [task.projector && "projector", task.lm_head && "lm_head"].filter(Boolean).join(", "),
    answers: usage.choices?.join(", "),
    template: usage.template,
    system: usage.system,
    model: task.base_model?.id,
    made: provenance.created?.slice(0, 10),
  };
  const measured = Object.entries(task.metrics ?? {}).filter(([, value]) => typeof value === "number");
  const told = [...Object.entries(rows).filter(([, value]) => value), ...measured];
  const row = ([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  return make("dl", {}, told.map(row));
}

function accuracy(task) {
  return Object.entries(task.metrics ?? {})
    .filter(([, one]) => Number.isFinite(one?.task?.accuracy))
    .map(([split, one]) => drawAccuracy(split, one));
}
