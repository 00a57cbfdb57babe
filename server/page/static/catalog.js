// What the server serves now: state, tasks, refused bundles. Looked at again every few seconds.

import { getJson } from "./api.js";
import { apiKey } from "./settings.js";

const READY_MS = 10_000;
const WAITING_MS = 2_000;
const WATCHED = 100; // so many tasks are listed anew at each look while they are on show
const changes = new EventTarget();

/**
 * `state`: of /ready, or `waiting` before the first answer, `silent` where none comes, `locked` where a key
 * is wanted, `wrong_key` where the one that was given is refused. `model`: the base model's name. `tasks`:
 * those of /v1/tasks. `refused`: bundles with faults.
 */
export const catalog = { state: "waiting", model: null, tasks: [], refused: [], fault: null };

let timer = 0;
let turn = 0;
let listed = null;

/** Whether tasks are hidden until the server knows the key. */
export const isLocked = () => catalog.state === "locked" || catalog.state === "wrong_key";

/** Whether `tasks` are all there are: a server that is away, or starts, has told of none yet. */
export const isListed = () => ["ready", "degraded", "no_tasks"].includes(catalog.state);

/** Calls `told` whenever something of the catalog is another. */
export const onCatalog = (told) => changes.addEventListener("change", told);

/** The task of that name, undefined where none is served. */
export const findTask = (name) => catalog.tasks.find((task) => task.id === name);

/** Looks at once, and from then on. */
export async function look() {
  clearTimeout(timer);
  const mine = ++turn;
  const before = JSON.stringify(catalog);
  await read();
  if (JSON.stringify(catalog) !== before) changes.dispatchEvent(new Event("change"));
  if (mine !== turn || isLocked()) return; // a later look goes on, or a key alone helps
  const isWell = catalog.state === "ready" || catalog.state === "degraded";
  timer = setTimeout(look, isWell ? READY_MS : WAITING_MS);
}

/** Looks again, tasks too, whatever was known. */
export function lookAfresh() {
  listed = null;
  return look();
}

async function read() {
  if (document.hidden && catalog.state !== "waiting") return;
  try {
    const ready = await getJson("ready", { evenFailed: true });
    catalog.model = ready.model ?? null;
    catalog.refused = ready.refused ?? [];
    catalog.state = ready.status ?? "silent";
    catalog.fault = null;
    await readTasks(JSON.stringify(ready.tasks ?? {}));
  } catch (error) {
    const isRefused = error.status === 401 || error.status === 403;
    catalog.state = !isRefused ? "silent" : apiKey() ? "wrong_key" : "locked";
    catalog.fault = error.message;
    if (isRefused) catalog.tasks = []; // whose key saw them may be another's
    listed = null;
  }
}

async function readTasks(digests) {
  const isWatched = location.hash === "#tasks" && catalog.tasks.length <= WATCHED;
  if (listed === digests && !isWatched) return; // shares of traffic may have changed all the same
  const { data } = await getJson("v1/tasks");
  catalog.tasks = data;
  listed = digests;
}
