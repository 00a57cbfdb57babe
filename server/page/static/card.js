// One answer: who was asked, the picture as the model gets it, the words as they come, how fast they came.

import { stream } from "./api.js";
import { badge, copyButton, digestButton, quietButton } from "./controls.js";
import { announce, make, tell } from "./dom.js";
import { drawFramed, drawPlain } from "./frame.js";
import { inWords, Meter } from "./meter.js";
import { apiKey } from "./settings.js";
import { asCurl, asPython, requestBody } from "./snippets.js";
import { methodOf } from "./words.js";

const SIDE = 224;
const COUNTED = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
let cards = 0;

/** The card of one request (see `requestBody`). `run` asks; `stop` ends it, and what came stays. */
export class Card {
  constructor(request) {
    this.request = request;
    this.name = request.task?.id ?? "base model";
    this.abort = new AbortController();
    this.answer = make("p", { class: "answer" });
    this.fault = make("p", { class: "fault", hidden: true });
    this.figures = make("p", { class: "figures" });
    this.stopButton = quietButton("Stop", () => this.stop());
    this.node = this.#build();
    this.#turn("queued");
  }

  /** Whether it still waits or writes. */
  get isRunning() {
    return ["queued", "asking", "writing"].includes(this.node.dataset.state);
  }

  stop() {
    this.abort.abort();
    if (this.node.dataset.state === "queued") this.#turn("stopped");
  }

  /** Asks, and shows what comes; never fails: a fault is shown on the card. */
  async run() {
    if (!this.isRunning) return;
    this.#turn("asking");
    const meter = new Meter();
    try {
      for await (const event of stream({ ...requestBody(this.request), ...COUNTED }, this.abort.signal)) {
        this.#take(event, meter);
      }
      this.#end("done", `${this.name}: ${this.answer.textContent.trim() || "an empty answer"}`);
    } catch (error) {
      if (error.name === "AbortError") return this.#end("stopped", `${this.name}: stopped`);
      tell(this.fault, error.message);
      this.#end("failed", `${this.name}: error. ${error.message}`);
    } finally {
      this.#showFigures(meter);
    }
  }

  #take({ digest, text, tokens }, meter) {
    if (digest) this.digest.replaceChildren(digestButton(digest));
    if (text === undefined) return;
    meter.saw(text, tokens);
    if (text) {
      this.answer.append(text);
      this.#turn("writing");
    }
    this.#showFigures(meter);
  }

  #end(state, words) {
    this.#turn(state);
    announce(words);
  }

  #turn(state) {
    this.node.dataset.state = state;
    this.node.setAttribute("aria-busy", String(this.isRunning));
    const hadFocus = document.activeElement === this.stopButton;
    this.stopButton.hidden = !this.isRunning;
    if (hadFocus && this.stopButton.hidden) this.node.focus();
    this.node.dispatchEvent(new Event("turn", { bubbles: true }));
  }

  #showFigures(meter) {
    const { firstMs, speed, tokens } = meter;
    const isTold = speed !== null && (speed.label === "speed" || !this.isRunning);
    const parts = [
      firstMs !== null && ["first token", inWords(firstMs)],
      isTold && [speed.label, `${speed.perSecond.toFixed(speed.perSecond < 10 ? 1 : 0)} tok/s`],
      tokens !== null && ["length", `${tokens} tok`],
    ];
    this.figures.replaceChildren(...parts.filter(Boolean).map(([label, value]) =>
      make("span", {}, make("small", {}, label), make("b", {}, value))));
  }

  #build() {
    const { task } = this.request;
    const title = `card-${++cards}`;
    this.digest = make("span", { class: "digest-place" }, task ? "" : "no task");
    const who = make("div", { class: "who" },
      make("h3", { id: title }, this.name), task && badge(methodOf(task)), this.digest);
    const about = { class: "card", tabindex: "-1", "aria-labelledby": title, data: { task: task?.id ?? "" } };
    return make("article", about,
      make("header", {}, this.#picture(), who, this.stopButton),
      this.answer, this.fault, this.figures,
      make("footer", {},
        copyButton("curl", () => asCurl(this.#written())),
        copyButton("Python", () => asPython(this.#written()))));
  }

  #written() {
    return { ...this.request, hasKey: apiKey() !== "" };
  }

  #picture() {
    const { picture, task } = this.request;
    if (!picture) return null;
    const words = task?.frame ? `in the frame of ${task.id}` : "as it is, without a frame";
    const about = { class: "seen", role: "img", "aria-label": `The picture ${words}` };
    const place = make("div", about, drawPlain(picture.image, SIDE));
    if (task?.frame) {
      drawFramed(picture.image, task).then(
        (canvas) => place.replaceChildren(canvas),
        () => place.setAttribute("aria-label", "The picture; its frame could not be fetched"),
      );
    }
    return place;
  }
}
