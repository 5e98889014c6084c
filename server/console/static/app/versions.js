// What changed: the store's versions, the difference of two, and the way back.

import { html, useState } from "../vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { Changes } from "./changes.js";
import { time } from "./format.js";
import { useAction, useRead } from "./loading.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";

const PAGE = 8;

/** Facts are compared across namespaces: versions are the whole store's. */
export function Versions() {
  const { version } = useServer();
  const [before, setBefore] = useState(null); // the page: versions below this one
  const [shown, setShown] = useState(null); // {before, after, rollback}
  const path = withQuery("admin/kb/history", { limit: PAGE, before });
  const { value, problem } = useRead((api) => api.json("GET", path), [path]);
  const rows = value?.versions ?? [];
  return html`<section class="card" aria-labelledby="versions-title">
    <h2 id="versions-title" tabindex="-1">What changed</h2>
    <${Trouble} problem=${problem} />
    ${value && rows.length === 0 && html`<p class="hint">Nothing yet.</p>`}
    <ol class="versions">
      ${rows.map(
        (row) => html`<li key=${row.version} data-version=${row.version}>
          <span class="tag">v${row.version}</span>
          <span>${row.kind} <span class="number">+${row.upserted} −${row.deleted}</span></span>
          <span class="hint">${time(row.at)}</span>
          <span class="row end">
            <button aria-label=${`Changes of version ${row.version}`}
              onClick=${() => setShown({ before: row.version - 1, after: row.version })}>Changes</button>
            ${row.version !== version &&
            html`<button aria-label=${`Back to version ${row.version}`}
              onClick=${() => setShown({ before: version, after: row.version, rollback: true })}>Back to …</button>`}
          </span>
        </li>`,
      )}
    </ol>
    <nav class="row" aria-label="Pages of versions">
      <button disabled=${before === null} onClick=${() => setBefore(null)}>Newest</button>
      <button disabled=${!value?.next_before || value.next_before <= 1} onClick=${() => setBefore(value.next_before)}>Older</button>
    </nav>
    <${Compare} onCompare=${setShown} />
    ${shown && html`<${Shown} key=${`${shown.before} ${shown.after}`} shown=${shown} onClose=${() => setShown(null)} />`}
  </section>`;
}

function Compare({ onCompare }) {
  const { version } = useServer();
  const [pair, setPair] = useState({ before: "", after: "" });
  const field = (name, label, placeholder) => html`<label>${label}
    <input type="number" min="0" max=${version} required inputmode="numeric" placeholder=${placeholder} value=${pair[name]}
      onInput=${(event) => setPair({ ...pair, [name]: event.target.value })} />
  </label>`;
  const submit = (event) => {
    event.preventDefault();
    onCompare({ before: Number(pair.before), after: Number(pair.after) });
  };
  return html`<form class="row compare" onSubmit=${submit}>
    ${field("before", "Compare version", "40")} ${field("after", "with version", version)}
    <button>Compare</button>
  </form>`;
}

function Shown({ shown: { before, after, rollback }, onClose }) {
  const { api, probe } = useServer();
  const [goBack, going] = useAction(async () => {
    await api.json("POST", "admin/kb/rollback", { version: after });
    await probe();
    onClose();
  });
  return html`<div class="diff" id="diff">
    <div class="row head">
      <h3>${rollback ? `Going back to version ${after} would change` : `From version ${before} to ${after}`}</h3>
      <button class="end" onClick=${onClose}>Close</button>
    </div>
    <${Changes} before=${before} after=${after} />
    ${rollback && html`<button class="main" id="rollback" disabled=${going.busy} onClick=${goBack}>Go back to version ${after}</button>`}
    <${Trouble} problem=${going.problem} />
  </div>`;
}
