// What went wrong, said where it went wrong.

import { html } from "../vendor/htm-preact.js";

export function Trouble({ problem }) {
  if (!problem) return null;
  return html`<p class="trouble" role="alert">
    ${problem.message}
    ${problem.wantsKey && html` <a href="#keys">Enter a key</a>.`}
  </p>`;
}
