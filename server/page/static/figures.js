// Small drawings: where a task has its learned tokens, and how accurate it was measured to be.

import { make } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 132;
const MOST_COLUMNS = 32;

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The layers of vision encoder and language model as rows, a learned token as a bright cell in them. */
export function drawLayers(task) {
  const stacks = [
    ["vision", task.vision],
    ["language", task.text ?? task.prefix],
  ].filter(([, spec]) => spec);
  const room = WIDTH / Math.max(1, stacks.length);
  const drawn = stacks.flatMap(([name, spec], index) => stack(name, spec, index * room + 16, room - 32));
  const words = `Learned: ${stacks.map(([name, spec]) => inWords(name, spec)).join("; ")}`;
  const about = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "layers", role: "img", "aria-label": words };
  return draw("svg", about, ...drawn);
}

const inWords = (name, spec) =>
  `${spec.length} tokens at ${rowsOf(spec).length} of ${spec.layers} layers of the ${name} model`;

const rowsOf = (spec) => spec.at ?? Array.from({ length: spec.layers }, (_, layer) => layer);

function stack(name, spec, left, width) {
  const bottom = HEIGHT - 24;
  const step = Math.min(9, (bottom - 12) / spec.layers);
  const columns = Math.min(spec.length, MOST_COLUMNS);
  const cell = Math.min(6, (width * 0.62) / columns);
  const learned = new Set(rowsOf(spec));
  const height = step * 0.62;
  const nodes = [];
  for (let layer = 0; layer < spec.layers; layer++) {
    const y = bottom - (layer + 1) * step;
    nodes.push(draw("rect", { x: left, y, width, height, rx: 1, class: "row" }));
    if (!learned.has(layer)) continue;
    for (let column = 0; column < columns; column++) {
      const x = left + column * cell;
      nodes.push(draw("rect", { x, y, width: cell * 0.78, height, rx: 0.6, class: "token" }));
    }
  }
  const label = draw("text", { x: left, y: HEIGHT - 8 });
  label.textContent = `${name} · ${spec.length} × ${learned.size}`;
  return [...nodes, label];
}

/** Two bars with their 95 % intervals: the base model, and the model with the task. */
export function drawAccuracy(split, { base, task, measure }) {
  const rows = [["base", base], ["task", task]].filter(([, one]) => Number.isFinite(one?.accuracy));
  const about = [split, measure, task.n && `n = ${task.n}`].filter(Boolean).join(" · ");
  return make("figure", { class: "accuracy" },
    ...rows.map(([name, one]) => make("div", { class: "bar-row", data: { who: name } },
      make("span", {}, name), bar(name, one), make("b", {}, percent(one.accuracy)))),
    make("figcaption", {}, about));
}

const percent = (share) => `${Math.round(share * 100)} %`;

function bar(name, { accuracy, low, high }) {
  const hasInterval = Number.isFinite(low) && Number.isFinite(high);
  const interval = hasInterval ? `, 95 % interval ${percent(low)} to ${percent(high)}` : "";
  const parts = [
    draw("rect", { x: 0, y: 3, width: 100, height: 6, rx: 1, class: "track" }),
    draw("rect", { x: 0, y: 3, width: accuracy * 100, height: 6, rx: 1, class: "value" }),
  ];
  if (hasInterval) {
    const width = (high - low) * 100;
    parts.push(draw("rect", { x: low * 100, y: 5.25, width, height: 1.5, class: "whisker" }));
  }
  const about = { role: "img", "aria-label": `${name}: ${percent(accuracy)}${interval}` };
  return draw("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", ...about }, ...parts);
}
