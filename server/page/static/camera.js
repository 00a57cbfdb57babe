// A picture from the camera, which is on only while the dialog is open.

import { byId, make, tell } from "./dom.js";
import { take } from "./picture.js";

let stream = null;

async function open() {
  tell(byId("camera-fault"), null);
  byId("snap").disabled = true;
  byId("camera").showModal();
  try {
    const given = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (!byId("camera").open) return stop(given);
    stream = given;
    byId("video").srcObject = stream;
  } catch (error) {
    tell(byId("camera-fault"), reason(error));
  }
}

function reason(error) {
  if (!navigator.mediaDevices) return "Browsers give the camera to pages on https and on localhost alone.";
  const isRefused = error.name === "NotAllowedError";
  return isRefused ? "The camera was not allowed: the address bar lets it." : "No camera was found.";
}

function stop(given) {
  given?.getTracks().forEach((track) => track.stop());
}

async function snap() {
  const video = byId("video");
  const canvas = make("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  byId("camera").close();
  await take(blob, { name: "camera.jpg" });
  byId("question").focus();
}

/** Wires the dialog. */
export function startCamera() {
  byId("open-camera").addEventListener("click", open);
  byId("close-camera").addEventListener("click", () => byId("camera").close());
  byId("snap").addEventListener("click", snap);
  byId("video").addEventListener("loadeddata", () => { byId("snap").disabled = false; });
  byId("camera").addEventListener("close", () => {
    stop(stream);
    stream = null;
    byId("video").srcObject = null;
  });
}
