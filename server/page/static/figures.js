// Small drawings: where the prompts of a task without a frame sit, and how accurate a task was measured to be.

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
  const words = stacks.map(([name, spec]) => `${spec.length} tokens at ${rowsOf(spec).length} of ${spec.layers} layers of the ${name} model`);
  return draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "layers", role: "img", "aria-label": `Learned: ${words.join("; ")}` }, ...drawn);
}

const rowsOf = (spec) => spec.at ?? Array.from({ length: spec.layers }, (_, layer) => layer);

function stack(name, spec, left, width) {
  const bottom = HEIGHT - 24;
  const step = Math.min(9, (bottom - 12) / spec.layers);
  const columns = Math.min(spec.length, MOST_COLUMNS);
  const cell = Math.min(6, (width * 0.62) / columns);
  const learned = new Set(rowsOf(spec));
  const nodes = [];
  for (let layer = 0; layer < spec.layers; layer++) {
    const y = bottom - (layer + 1) * step;
    nodes.push(draw("rect", { x: left, y, width, height: step * 0.62, rx: 1, class: "row" }));
    if (!learned.has(layer)) continue;
    for (let column = 0; column < columns; column++) {
      nodes.push(draw("rect", { x: left + column * cell, y, width: cell * 0.78, height: step * 0.62, rx: 0.6, class: "token" }));
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
  const words = `${name}: ${percent(accuracy)}${hasInterval ? `, 95 % interval ${percent(low)} to ${percent(high)}` : ""}`;
  const parts = [
    draw("rect", { x: 0, y: 3, width: 100, height: 6, rx: 1, class: "track" }),
    draw("rect", { x: 0, y: 3, width: accuracy * 100, height: 6, rx: 1, class: "value" }),
  ];
  if (hasInterval) parts.push(draw("rect", { x: low * 100, y: 5.25, width: (high - low) * 100, height: 1.5, class: "whisker" }));
  return draw("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": words }, ...parts);
}
