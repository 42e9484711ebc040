// The reader's choice of light or dark, kept in this browser only. Loaded before the page is drawn.
"use strict";

(() => {
  const KEY = "flopmarket-theme";
  const ORDER = ["auto", "light", "dark"];
  const root = document.documentElement;

  const stored = () => {
    try {
      const value = localStorage.getItem(KEY);
      return ORDER.includes(value) ? value : "auto";
    } catch {
      return "auto"; // storage may be forbidden; then every page follows the system
    }
  };

  const apply = (theme) => {
    root.dataset.theme = theme;
    dispatchEvent(new Event("theme"));
  };

  apply(stored());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(stored()));

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = (theme) => {
      button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
      button.setAttribute("aria-label", `Colours: ${theme}. Change.`);
    };
    button.hidden = false;
    name(stored());
    button.addEventListener("click", () => {
      const next = ORDER[(ORDER.indexOf(root.dataset.theme) + 1) % ORDER.length];
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // the choice holds for this page
      }
      name(next);
      apply(next);
    });
  });
})();
