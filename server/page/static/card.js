// One answer: who was asked, the picture as the model gets it, the words as they come, how fast they came.

import { stream } from "./api.js";
import { announce, copy, make, tell } from "./dom.js";
import { drawFramed, drawPlain } from "./frame.js";
import { inWords, Meter } from "./meter.js";
import { apiKey } from "./settings.js";
import { asCurl, asPython, requestBody } from "./snippets.js";
import { methodOf } from "./words.js";

const SIDE = 224;
const DIGEST_SHOWN = 10;
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
    this.stopButton = make("button", { type: "button", class: "quiet", onclick: () => this.stop() }, "Stop");
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
      this.#end("done", `${this.name}: ${this.answer.textContent || "an empty answer"}.`);
    } catch (error) {
      if (error.name === "AbortError") return this.#end("stopped", `${this.name}: stopped.`);
      tell(this.fault, error.message);
      this.#end("failed", `${this.name}: error. ${error.message}`);
    } finally {
      this.#showFigures(meter);
    }
  }

  #take({ digest, text, tokens }, meter) {
    if (digest) this.#showDigest(digest);
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
    const parts = [
      firstMs !== null && ["first token", inWords(firstMs)],
      speed && (speed.label === "speed" || !this.isRunning) && [speed.label, `${speed.perSecond.toFixed(speed.perSecond < 10 ? 1 : 0)} tok/s`],
      tokens !== null && ["length", `${tokens} tok`],
    ].filter(Boolean);
    this.figures.replaceChildren(...parts.map(([label, value]) => make("span", { title: label },
      make("small", {}, label), make("b", {}, value))));
  }

  #showDigest(digest) {
    const button = make("button", { type: "button", class: "digest", title: `Copy the digest ${digest}` }, digest.slice(0, DIGEST_SHOWN));
    button.setAttribute("aria-label", `Copy the digest, ${digest.slice(0, DIGEST_SHOWN)}`);
    button.addEventListener("click", () => copy(digest, button, "Digest"));
    this.digest.replaceChildren(button);
  }

  #build() {
    const { task } = this.request;
    const title = `card-${++cards}`;
    this.digest = make("span", { class: "digest-place" }, task ? "" : "no task");
    return make("article", { class: "card", tabindex: "-1", "aria-labelledby": title, data: { task: task?.id ?? "" } },
      make("header", {},
        this.#picture(),
        make("div", { class: "who" }, make("h3", { id: title }, this.name), task && make("span", { class: "badge" }, methodOf(task)), this.digest),
        this.stopButton),
      this.answer, this.fault, this.figures,
      make("footer", {}, this.#copier("curl", asCurl), this.#copier("Python", asPython)));
  }

  #picture() {
    const { picture, task } = this.request;
    if (!picture) return null;
    const label = task?.frame ? `The picture in the frame of ${task.id}` : "The picture as it is, without a frame";
    const place = make("div", { class: "seen", role: "img", "aria-label": label }, drawPlain(picture.image, SIDE));
    if (task?.frame) {
      drawFramed(picture.image, task).then(
        (canvas) => place.replaceChildren(canvas),
        () => place.setAttribute("aria-label", "The picture; its frame could not be fetched"),
      );
    }
    return place;
  }

  #copier(label, write) {
    const button = make("button", { type: "button", class: "quiet", title: `Copy the request as ${label}` }, `Copy ${label}`);
    button.addEventListener("click", () => copy(write({ ...this.request, hasKey: apiKey() !== "" }), button, `Request as ${label}`));
    return button;
  }
}
