// The picture that is asked about: dropped, pasted, picked, taken, or an example.

import { address } from "./api.js";
import { byId, make, tell } from "./dom.js";

const SERVED = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const SVG_SIDE = 512;
let current = null;
let told = () => {};

/** The picture, null where there is none: `{ name, url, image, source }`, `source` an example's address. */
export const picture = () => current;

/** Takes a file of the user's. What the server does not read, the browser turns into PNG. */
export async function take(file, { source = null, name = file.name } = {}) {
  try {
    const image = await decode(file);
    const blob = SERVED.includes(file.type) ? file : await toPng(image);
    const isSame = blob === file;
    const known = isSame ? { name, source } : { name: `${name}.png`, source: null };
    show({ ...known, url: await dataUrl(blob), image });
  } catch {
    tell(byId("picture-fault"), `${name || "This"} is no picture that the browser can read.`);
  }
}

/** Takes one of the page's own pictures. */
export async function takeExample(file) {
  const response = await fetch(address(`page/examples/${file}`));
  await take(await response.blob(), { source: address(`page/examples/${file}`), name: file });
}

/** Forgets the picture. */
export function clear() {
  show(null);
}

/** Wires the ways in; `onChange` is called when there is another picture or none. */
export function startPicture(onChange) {
  told = onChange;
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) take(target.files[0]);
    target.value = "";
  });
  byId("clear").addEventListener("click", () => { clear(); byId("file").focus(); });
  document.addEventListener("paste", pasted);
  document.addEventListener("dragover", (event) => dragged(event, true));
  document.addEventListener("dragleave", (event) => event.relatedTarget || dragged(event, false));
  document.addEventListener("drop", dropped);
}

function pasted(event) {
  const file = firstPicture(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  take(file, { name: "pasted.png" });
}

function dragged(event, isOver) {
  event.preventDefault();
  byId("drop").classList.toggle("over", isOver);
}

function dropped(event) {
  dragged(event, false);
  const file = event.dataTransfer.files[0];
  if (file) take(file);
}

const firstPicture = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));

function show(next) {
  current = next;
  tell(byId("picture-fault"), null);
  byId("invite").hidden = next !== null;
  byId("clear").hidden = next === null;
  const shown = byId("shown");
  shown.hidden = next === null;
  if (next) {
    shown.src = next.image.src;
    shown.alt = `The picture: ${next.name}`;
  } else shown.removeAttribute("src");
  tell(byId("caption"), next && `${next.name} · ${next.image.naturalWidth} × ${next.image.naturalHeight}`);
  told();
}

async function decode(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  return image;
}

async function toPng(image) {
  const canvas = make("canvas");
  canvas.width = image.naturalWidth || SVG_SIDE;
  canvas.height = image.naturalHeight || SVG_SIDE;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

async function dataUrl(blob) {
  return await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
