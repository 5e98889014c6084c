// Keys that lead somewhere while no field has the focus.

import { html, useEffect } from "../vendor/htm-preact.js";

const TARGETS = {
  "/": ["#question", "question"],
  f: ["#find", "find facts"],
  e: [".facts .edit", "edit the first fact"],
  v: ["#versions-title", "what changed"],
};

export function Shortcuts() {
  useEffect(() => {
    addEventListener("keydown", lead);
    return () => removeEventListener("keydown", lead);
  }, []);
  return html`<footer class="hint">
    ${Object.entries(TARGETS).map(([key, [, name]]) => html`<span key=${key}><kbd>${key}</kbd> ${name}</span>`)}
    <span><kbd>Ctrl</kbd>+<kbd>Enter</kbd> save</span><span><kbd>Esc</kbd> cancel, stop</span>
  </footer>`;
}

function lead(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (event.target.matches("input, textarea, select")) return;
  const target = Object.hasOwn(TARGETS, event.key) && document.querySelector(TARGETS[event.key][0]);
  if (!target) return;
  event.preventDefault();
  target.scrollIntoView({ block: "nearest" });
  target.focus();
  if (target.matches("button")) target.click();
}
