// How fast an answer came, measured in the browser: network and queue are in it.

const LEAST_SECONDS = 0.05;

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

  /**
   * Tokens a second, `{ label, perSecond }`: of the writing, from the first text to the last, where it took
   * long enough to be timed (events that come in one packet have no time between them); else of the whole
   * answer, the wait for its first token included. Null where nobody counted.
   */
  get speed() {
    if (this.tokens === null) return null;
    const seconds = (this.last.at - this.first.at) / 1000;
    const written = this.last.tokens - this.first.tokens;
    if (seconds >= LEAST_SECONDS && written > 0) return { label: "speed", perSecond: written / seconds };
    return { label: "overall", perSecond: (this.tokens * 1000) / (this.last.at - this.began) };
  }
}

/** A time for people. */
export const inWords = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
