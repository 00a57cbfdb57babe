// How fast an answer came, measured in the browser: network and queue are in it.

/** Times of one answer, in milliseconds of `performance.now()`. */
export class Meter {
  constructor() {
    this.began = performance.now();
    this.first = null; // { at, tokens } of the first event with text
    this.last = null;
  }

  /** An event came; `tokens`: all so far, null where the server does not count. */
  saw(text, tokens) {
    if (text) {
      this.last = { at: performance.now(), tokens };
      this.first ??= this.last;
    } else if (tokens !== null && this.last) this.last = { ...this.last, total: tokens };
  }

  /** Milliseconds to the first text, null before it. */
  get firstMs() {
    return this.first && this.first.at - this.began;
  }

  /** Tokens of the answer, null where nobody counted. */
  get tokens() {
    return this.last?.total ?? this.last?.tokens ?? null;
  }

  /** Tokens a second between the first text and the last, null where one event brought it all. */
  get rate() {
    if (!this.last || this.last === this.first || this.last.tokens === null) return null;
    const seconds = (this.last.at - this.first.at) / 1000;
    const tokens = this.last.tokens - this.first.tokens;
    return seconds > 0 && tokens > 0 ? tokens / seconds : null;
  }
}

/** A time for people. */
export const inWords = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
