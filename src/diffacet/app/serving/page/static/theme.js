// A classic script in the head: the chosen theme stands before the first paint.
"use strict";
(() => {
  const NAME = "diffacet-theme";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  /** @returns {string|null} what was chosen here before, if this browser keeps anything */
  const chosen = () => {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null;
    }
  };
  const isDark = () => (chosen() ?? (dark.matches ? "dark" : "light")) === "dark";
  const show = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    document.getElementById("theme")?.setAttribute("aria-pressed", String(isDark()));
  };
  show();
  dark.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      try {
        localStorage.setItem(NAME, isDark() ? "light" : "dark");
        show();
      } catch {
        const now = document.documentElement.dataset.theme;
        document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
      }
    });
  });
})();
