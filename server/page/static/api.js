// The server's routes, as the page uses them. Addresses are relative: the page works behind a proxy's prefix.

import { apiKey } from "./settings.js";

/** What went wrong, in the server's own words. `status`: of HTTP, 0 where no answer came. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The whole address of a route. */
export const address = (path) => new URL(path, document.baseURI).href;

function headers(more = {}) {
  const key = apiKey();
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function ask(path, options = {}) {
  try {
    return await fetch(address(path), { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it running?");
  }
}

/** JSON of a route; `evenFailed`: also of an answer that says no, as `/ready` does. */
export async function getJson(path, { evenFailed = false } = {}) {
  const response = await ask(path, { cache: "no-store" });
  if (!response.ok && !evenFailed) throw await failure(response);
  return await response.json();
}

/** The bytes of a route. */
export async function getBlob(path) {
  const response = await ask(path);
  if (!response.ok) throw await failure(response);
  return await response.blob();
}

async function failure(response) {
  const { status } = response;
  let said = null;
  try {
    said = await response.json();
  } catch {
    // a proxy's page, say
  }
  return asError(said, status) ?? new ApiError(`The server answered ${status}.`, { status });
}

function asError(said, status) {
  const error = said?.error;
  if (typeof error === "string") return new ApiError(error, { status });
  if (typeof error?.message === "string") return new ApiError(error.message, { status, code: error.code });
  return null;
}

/**
 * Asks, and gives what comes as it comes: first `{ digest }`, then `{ text, tokens }`; `tokens` are all so
 * far, null where the server does not count. Throws an ApiError, or an AbortError when `signal` stops it.
 */
export async function* stream(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
    signal,
  });
  if (!response.ok) throw await failure(response);
  yield { digest: response.headers.get("X-Task-Digest") };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    const error = asError(event, response.status);
    if (error) throw error;
    const text = event.choices?.[0]?.delta?.content ?? "";
    yield { text, tokens: event.usage?.completion_tokens ?? null };
  }
  throw new ApiError("The answer broke off before its end.", { status: response.status });
}

/** The data of each event of a stream of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (kept + value).split(/\r?\n\r?\n/);
      kept = parts.pop();
      yield* parts.map(dataOf).filter((data) => data !== "");
    }
  } finally {
    reader.cancel().catch(() => {}); // of a stream that failed, or was left early
  }
}

function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}
