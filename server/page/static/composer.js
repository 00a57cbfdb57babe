// The left side: picture, who answers, question; what is asked when the user says so.

import { catalog, findTask } from "./catalog.js";
import { choose, targets } from "./chips.js";
import { byId, make, tell } from "./dom.js";
import { picture, takeExample } from "./picture.js";
import { startRound, stopAll } from "./rounds.js";
import { sampling } from "./settings.js";
import { wordingOf } from "./words.js";

let suggested = ""; // a question that the page put in: another example may put in another

/** Wires the form, the keys and the examples. */
export async function startComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  byId("question").addEventListener("input", showWording);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stopAll();
  });
  await showExamples();
}

/** Says how the server will put the question of the chosen tasks. */
export function showWording() {
  const text = byId("question").value.trim() || "…";
  byId("wording").replaceChildren(...targets().filter(Boolean).flatMap((task) => wordingLines(task, text)));
  tell(byId("ask-fault"), null);
}

function wordingLines(task, text) {
  const said = wordingOf(task, text);
  const { system, choices } = task.usage ?? {};
  const parts = [
    said && `is asked “${said}”`,
    system && `is told “${system}”`,
    choices && `answers one of ${choices.slice(0, 6).join(", ")}${choices.length > 6 ? ", …" : ""}`,
  ].filter(Boolean);
  return parts.length ? [make("li", {}, make("b", {}, task.id), ` ${parts.join("; ")}`)] : [];
}

function ask() {
  const fault = whyNot();
  tell(byId("ask-fault"), fault);
  if (fault) return;
  const question = byId("question").value.trim();
  const { model } = catalog;
  const round = startRound(targets(), { model, picture: picture(), question, sampling: sampling() });
  if (!matchMedia("(max-width: 899px)").matches) return;
  round.querySelector("h2").focus({ preventScroll: true }); // a phone's keyboard goes
  round.scrollIntoView({ block: "start" });
}

function whyNot() {
  if (!catalog.model) return "The server is not ready yet.";
  if (!targets().length) return "Choose who answers: the base model, or a task.";
  if (!picture() && !byId("question").value.trim()) return "Choose a picture, or write a question.";
  return null;
}

async function showExamples() {
  const response = await fetch("page/examples/examples.json");
  const examples = await response.json();
  byId("examples").replaceChildren(...examples.map((example) => make("li", {},
    make("button", { type: "button", class: "example", title: example.title, onclick: () => use(example) },
      make("img", { src: `page/examples/${example.file}`, alt: example.title, width: 56, height: 56 })))));
}

async function use({ file, task, question }) {
  await takeExample(file);
  const field = byId("question");
  if (!field.value.trim() || field.value === suggested) field.value = suggested = question;
  if (findTask(task)) choose(task);
  showWording();
}
