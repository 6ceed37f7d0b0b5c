"use strict";

// --- theme, printing: what all parts of the page share
const page = {
  data: (name) => JSON.parse(document.getElementById(name).textContent),
  /** An element with attributes and children; texts are put in as texts. */
  make(tag, attributes = {}, ...children) {
    const found = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  },
  /** A select of `options`; `change` is given the place of the chosen one. */
  choose(label, options, change) {
    const select = page.make("select", {}, ...options.map((text, at) => page.make("option", { value: at }, text)));
    select.addEventListener("change", () => change(Number(select.value)));
    return page.make("label", {}, label, select);
  },
  onTheme: [], // called after the colours have changed
};
{
  const root = document.documentElement, button = document.getElementById("theme");
  const changed = () => page.onTheme.forEach((call) => call());
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = getComputedStyle(root).colorScheme === "dark" ? "light" : "dark";
    changed();
  });
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", changed);
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));
}
