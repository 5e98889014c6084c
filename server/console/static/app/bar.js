// A share as a bar with its number.

import { html } from "../vendor/htm-preact.js";

export function Bar({ label, share, text }) {
  const width = `${100 * Math.min(1, Math.max(0, share ?? 0))}%`;
  return html`<div class="bar">
    <span class="bar-label">${label}</span>
    <svg aria-hidden="true" width="100%" height="8"><rect class="rail" width="100%" height="8" rx="4" /><rect class="fill" width=${width} height="8" rx="4" /></svg>
    <span class="number">${text}</span>
  </div>`;
}
