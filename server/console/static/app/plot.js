// Milliseconds as dots on a logarithmic scale, the latest on the right, with the budget as a line.

import { html } from "../vendor/htm-preact.js";
import { milliseconds } from "./format.js";

const [WIDTH, HEIGHT, LEFT, RIGHT] = [340, 120, 52, 8];
const [LEAST, MOST] = [5, 5000];
const LINES = [10, 100, 1000];
const BUDGET = 100;
const SHOWN = 40;

export function Plot({ title, here, there }) {
  const summary = here.length ? `the last one ${milliseconds(here.at(-1))}` : "nothing measured yet";
  return html`<svg class="plot" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${`${title}: ${summary}`}>
    ${LINES.map(
      (ms) => html`<g key=${ms} class=${ms === BUDGET ? "budget" : ""}>
        <line x1=${LEFT} x2=${WIDTH} y1=${height(ms)} y2=${height(ms)} />
        <text x=${LEFT - 6} y=${height(ms) + 4} text-anchor="end">${ms < 1000 ? `${ms} ms` : `${ms / 1000} s`}</text>
      </g>`,
    )}
    <text x=${LEFT + 2} y=${height(BUDGET) - 4}>budget</text>
    ${dots(there, "there", 3.5)} ${dots(here, "here", 4)}
  </svg>`;
}

function dots(values, kind, radius) {
  const shown = values.slice(-SHOWN);
  const step = (WIDTH - LEFT - 2 * RIGHT) / (SHOWN - 1);
  return shown.map(
    (ms, index) => html`<circle class=${kind} r=${radius} cy=${height(ms)}
      cx=${WIDTH - RIGHT - (shown.length - 1 - index) * step}><title>${milliseconds(ms)}</title></circle>`,
  );
}

function height(ms) {
  const share = Math.log(Math.min(MOST, Math.max(LEAST, ms)) / LEAST) / Math.log(MOST / LEAST);
  return (1 - share) * (HEIGHT - 16) + 8;
}
