// Light, dark, or as the system has it: said before the first paint, so that nothing flashes.
"use strict";

(() => {
  const NEXT = { auto: "light", light: "dark", dark: "auto" };

  function read() {
    try {
      const kept = localStorage.getItem("theme");
      return kept in NEXT ? kept : "auto";
    } catch {
      return "auto"; // a browser that keeps nothing
    }
  }

  function show(theme) {
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
  }

  function turn() {
    const theme = NEXT[document.documentElement.dataset.theme];
    show(theme);
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // it lasts as long as the page does
    }
  }

  show(read());
  document.addEventListener("DOMContentLoaded", () => {
    show(read());
    document.getElementById("theme").addEventListener("click", turn);
  });
})();
