// A picture in a task's frame, as the server puts it there (prompts/frame.py), drawn for people in 8 bits.
//
// The server's preview is the frame around a grey square of known values. Here the square gives way to the
// picture: its shorter side is made `inner`, its middle is cut out, transparency stands on white. What the
// preview is beyond its grey was learned (a frame that is free everywhere) and is added to the picture.

import { getBlob } from "./api.js";
import { make } from "./dom.js";

const GREY = 160;
const DIAGONAL_GREY = 120;
const PREVIEWS = new Map();

/** The preview of a task, kept by digest. */
export function preview(task) {
  if (!PREVIEWS.has(task.digest)) {
    const coming = readPreview(task.id);
    PREVIEWS.set(task.digest, coming);
    coming.catch(() => PREVIEWS.delete(task.digest));
  }
  return PREVIEWS.get(task.digest);
}

async function readPreview(name) {
  const blob = await getBlob(`v1/tasks/${encodeURIComponent(name)}/preview.png`);
  return await createImageBitmap(blob, { colorSpaceConversion: "none" });
}

/** A canvas of the preview alone. */
export async function drawPreview(task) {
  const bitmap = await preview(task);
  const canvas = sized(bitmap.width, bitmap.height);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0);
  return canvas;
}

/** A canvas of the picture in the task's frame. */
export async function drawFramed(image, task) {
  const canvas = await drawPreview(task);
  const { inner, free } = task.frame;
  const left = Math.floor((canvas.width - inner) / 2);
  const top = Math.floor((canvas.height - inner) / 2);
  const pen = canvas.getContext("2d");
  const learned = free === "all" ? pen.getImageData(left, top, inner, inner) : null;
  drawMiddle(pen, image, left, top, inner);
  if (learned) addLearned(pen, learned, left, top, inner);
  return canvas;
}

function drawMiddle(pen, image, left, top, inner) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const side = Math.min(width, height);
  pen.fillStyle = "#fff";
  pen.fillRect(left, top, inner, inner);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, (width - side) / 2, (height - side) / 2, side, side, left, top, inner, inner);
}

function addLearned(pen, learned, left, top, inner) {
  const shown = pen.getImageData(left, top, inner, inner);
  for (let index = 0; index < shown.data.length; index++) {
    const pixel = index >> 2;
    const x = pixel % inner;
    const y = (pixel - x) / inner;
    const ground = x === y || x + y === inner - 1 ? DIAGONAL_GREY : GREY;
    if (index % 4 < 3) shown.data[index] += learned.data[index] - ground;
  }
  pen.putImageData(shown, left, top);
}

/** A canvas of the picture as it is, its longer side at most `side` pixels. */
export function drawPlain(image, side) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = sized(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function sized(width, height) {
  const canvas = make("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}
