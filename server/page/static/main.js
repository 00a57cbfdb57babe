// The page: everything wired, then the server looked at.

import { startCamera } from "./camera.js";
import { choose, showChips, startChips } from "./chips.js";
import { look, lookAfresh, onCatalog } from "./catalog.js";
import { showWording, startComposer } from "./composer.js";
import { byId } from "./dom.js";
import { showGallery, startGallery } from "./gallery.js";
import { startPicture } from "./picture.js";
import { onSettings, startSettings } from "./settings.js";
import { showStatus, startStatus } from "./status.js";

const VIEWS = ["ask", "tasks"];

function showView() {
  const asked = location.hash.slice(1);
  const view = VIEWS.includes(asked) ? asked : "ask";
  for (const name of VIEWS) {
    byId(name).hidden = name !== view;
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  document.title = view === "tasks" ? "Tasks · Passepartout" : "Passepartout";
  if (asked === "question") byId("question").focus();
  if (view !== "tasks") return;
  showGallery();
  lookAfresh(); // what is on the device changes with every question
}

function showCatalog() {
  showStatus();
  showChips();
  showWording();
  if (!byId("tasks").hidden) showGallery();
}

function tryTask(name) {
  choose(name, { alone: true });
  location.hash = "#ask";
  showView(); // the browser tells of the new hash later than this
  byId("question").focus();
}

startSettings();
startStatus();
startPicture(() => showWording());
startCamera();
startChips(showWording);
startGallery(tryTask);
addEventListener("hashchange", showView);
onCatalog(showCatalog);
onSettings(lookAfresh);
showView();
startComposer();
look();
