// Questions and their answers, the newest on top. A question to several is one round of cards.

import { Card } from "./card.js";
import { quietButton } from "./controls.js";
import { byId, make } from "./dom.js";

const AT_ONCE = 5; // browsers open six connections to a server that speaks HTTP/1.1; one is left for the page
const KEPT = 20;
const waiting = [];
let running = 0;

/** Asks every target; `asked`: `{ model, picture, question, sampling }`. Returns the round's element. */
export function startRound(targets, asked) {
  const cards = targets.map((task) => new Card({ ...asked, task }));
  const stopCards = () => cards.forEach((card) => card.stop());
  const stop = quietButton("Stop all", stopCards);
  const count = cards.length === 1 ? "1 answer" : `${cards.length} answers`;
  const title = make("h2", { tabindex: "-1" }, asked.question || "(no words, the picture alone)");
  const round = make("section", { class: "round", "aria-label": `Answers to: ${asked.question}` },
    make("header", {}, title, make("span", { class: "hint" }, `${count} · ${clock()}`), stop),
    make("div", { class: "cards" }, cards.map((card) => card.node)));
  round.addEventListener("turn", () => { stop.hidden = !cards.some((card) => card.isRunning); });
  round.stop = stopCards;
  byId("empty")?.remove();
  byId("rounds").prepend(round);
  forgetOld();
  waiting.push(...cards);
  next();
  return round;
}

/** Stops whatever still waits or writes. */
export function stopAll() {
  byId("rounds").querySelectorAll(".round").forEach((round) => round.stop());
}

const clock = () => new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift().run().finally(() => {
      running -= 1;
      next();
    });
  }
}

function forgetOld() {
  const rounds = [...byId("rounds").querySelectorAll(".round")];
  for (const round of rounds.slice(KEPT)) {
    round.stop();
    round.remove();
  }
}
