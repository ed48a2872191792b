// Before the page is drawn, so that it does not flash: the chosen theme, else that of the system.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theme = localStorage.getItem("kelpie-theme") || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.bsTheme = theme;
  };
  dark.addEventListener("change", apply);
  apply();
})();
