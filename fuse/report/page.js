"use strict";
{
  const root = document.documentElement, button = document.getElementById("theme");
  const isDark = () => getComputedStyle(root).colorScheme === "dark";
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; });
}
