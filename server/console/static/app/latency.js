// How fast it is: what this page measured, and what the server measured for everybody.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { milliseconds } from "./format.js";
import { histogram, quantile, since, total } from "./metrics.js";
import { Plot } from "./plot.js";
import { patience, repeating, useServer } from "./server.js";

const EVERY_MS = 2000;
const KEPT = 60;
const KINDS = {
  ttft: { title: "Question to first words", histogram: ["kalmagrove_time_to_first_token_seconds", "endpoint="] },
  edit: { title: "Edit to durable and visible", histogram: ["kalmagrove_edit_visible_seconds", 'size="small"'] },
};

export function Latency() {
  const { measured } = useServer();
  const served = useServed();
  return html`<section class="card" aria-labelledby="latency-title">
    <h2 id="latency-title">Latency</h2>
    <div class="plots">
      ${Object.entries(KINDS).map(([kind, { title }]) => {
        const { counts, medians } = served[kind];
        return html`<figure key=${kind} data-plot=${kind}>
          <figcaption>${title}</figcaption>
          <${Plot} title=${title} here=${measured[kind]} there=${medians} />
          <p class="hint">
            Server, since this page was opened: median <span class="number">${milliseconds(quantile(counts, 0.5))}</span>, p99
            <span class="number"> ${milliseconds(quantile(counts, 0.99))}</span>,
            n = <span class="number">${total(counts).toLocaleString("en")}</span>
          </p>
        </figure>`;
      })}
    </div>
    <p class="hint legend"><svg aria-hidden="true" width="10" height="10"><circle class="here" cx="5" cy="5" r="4" /></svg> measured by this page
      <svg aria-hidden="true" width="10" height="10"><circle class="there" cx="5" cy="5" r="3.5" /></svg> by the server, for everybody</p>
  </section>`;
}

/** Per kind {counts, medians}: the server's histogram of what came since the first reading, and the medians of what came
 * between two readings. */
function useServed() {
  const { api, state, keys } = useServer();
  const [served, setServed] = useState({ ttft: NONE, edit: NONE });
  const readings = useRef({ first: null, last: null });
  useEffect(() => {
    if (state !== "ready") return undefined;
    const look = async () => {
      const text = await api.open("GET", "metrics", { signal: patience() }).then((response) => response.text()).catch(() => null);
      if (text === null) return; // other parts of the page say why
      const now = Object.fromEntries(Object.entries(KINDS).map(([kind, one]) => [kind, histogram(text, ...one.histogram)]));
      const { first, last } = restarted(now, readings.current.last) ? { first: now, last: now } : readings.current;
      readings.current = { first, last: now };
      setServed((old) => grown(old, now, last, first));
    };
    return repeating(look, EVERY_MS);
  }, [state, keys]);
  return served;
}

const NONE = { counts: new Map(), medians: [] };

function grown(old, now, last, first) {
  const next = Object.keys(KINDS).map((kind) => {
    const came = since(now[kind], last[kind]);
    const median = total(came) > 0 ? [quantile(came, 0.5)] : [];
    return [kind, { counts: since(now[kind], first[kind]), medians: [...old[kind].medians, ...median].slice(-KEPT) }];
  });
  return Object.fromEntries(next);
}

/** Whether there is nothing before to compare with: a server that was started anew counts from zero. */
function restarted(now, last) {
  return last === null || Object.keys(KINDS).some((kind) => total(now[kind]) < total(last[kind]));
}
