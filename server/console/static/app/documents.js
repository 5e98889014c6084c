// Documents: what texts the facts were split out of, each with the way to delete it whole.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { count, time } from "./format.js";
import { useAction, useRead } from "./loading.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";

const PAGE = 6;

/** `onShow(id)`: its facts are wanted. Nothing is shown of a namespace without documents. */
export function Documents({ onShow }) {
  const { namespace } = useServer();
  const [cursors, setCursors] = useState([null]); // of the pages up to this one
  const path = withQuery("admin/kb/documents", { namespace, limit: PAGE, cursor: cursors.at(-1) });
  const { value, problem } = useRead((api) => api.json("GET", path), [path]);
  const documents = value?.documents ?? [];
  useEffect(() => {
    // The last document of the last page was deleted.
    if (value && documents.length === 0 && cursors.length > 1) setCursors(cursors.slice(0, -1));
  }, [value]);
  if (!documents.length && cursors.length === 1) return html`<${Trouble} problem=${problem} />`;
  return html`<details class="documents">
    <summary>Documents</summary>
    <${Trouble} problem=${problem} />
    <ul class="facts" id="documents">
      ${documents.map((one) => html`<${Document} key=${one.id} document=${one} onShow=${onShow} />`)}
    </ul>
    ${(cursors.length > 1 || value?.next_cursor) && html`<nav class="row" aria-label="Pages of documents">
      <button disabled=${cursors.length === 1} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous</button>
      <span class="number">Page ${cursors.length}</span>
      <button disabled=${!value?.next_cursor} onClick=${() => setCursors([...cursors, value.next_cursor])}>Next</button>
    </nav>`}
  </details>`;
}

function Document({ document, onShow }) {
  const { api, probe } = useServer();
  const [asked, setAsked] = useState(null); // the version that is to be deleted, once somebody has said so
  const [remove, { busy, problem }] = useAction(async () => {
    const seen = { namespace: document.namespace, if_version: asked };
    await api.json("DELETE", withQuery(`admin/kb/documents/${encodeURIComponent(document.id)}`, seen));
    await probe();
  });
  return html`<li class="fact" data-document=${document.id}>
    <div class="row head">
      <code>${document.id}</code><span class="tag">v${document.version}</span>
      <span class="row end">
        <button onClick=${() => onShow(document.id)} aria-label=${`Facts of ${document.id}`}>${count(document.facts, "fact")}</button>
        <button onClick=${() => setAsked(document.version)} aria-label=${`Delete document ${document.id}`}>Delete …</button>
      </span>
    </div>
    ${document.title && html`<p class="text" dir="auto">${document.title}</p>`}
    <p class="hint">${time(document.created_at)}</p>
    ${asked !== null && html`<div class="row confirm" role="group" aria-label=${`Delete ${document.id}?`}>
      <span>Delete it with its ${count(document.facts, "fact")}?</span>
      <button disabled=${busy} onClick=${remove}>Yes, delete</button>
      <button onClick=${() => setAsked(null)}>No</button>
    </div>`}
    <${Trouble} problem=${problem} />
  </li>`;
}

/** Where in which document a fact stood, if it is of one. Its metadata may hold anything. */
export function Origin({ metadata, onShow }) {
  const mark = metadata?.document;
  if (typeof mark?.id !== "string") return null;
  const headings = Array.isArray(mark.headings) ? mark.headings.filter((one) => typeof one === "string") : [];
  return html`<p class="hint origin">
    ${onShow ? html`<button class="link" onClick=${() => onShow(mark.id)}>${mark.id}</button>` : html`<code>${mark.id}</code>`}
    ${headings.map((one) => html`<span dir="auto"> › ${one}</span>`)}
  </p>`;
}
