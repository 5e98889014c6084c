// The knowledge: found by a question, or page by page; all of it, or one document's.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { Documents, Origin } from "./documents.js";
import { EditFact, NewFact } from "./editor.js";
import { count, decimal, quoted } from "./format.js";
import { useAction, useRead } from "./loading.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";
import { Transfer } from "./transfer.js";

const [PAGE, FOUND] = [6, 10];

export function Browse({ onEdited }) {
  const { namespace } = useServer();
  const [query, setQuery] = useState("");
  const [typed, setTyped] = useState("");
  const [adding, setAdding] = useState(false);
  const [of, setOf] = useState(null); // the document whose facts alone are shown
  useEffect(() => setOf(null), [namespace]);
  const submit = (event) => {
    event.preventDefault();
    setQuery(typed.trim());
  };
  const added = (edit) => {
    setAdding(false);
    onEdited(edit);
  };
  return html`<section class="card" aria-labelledby="browse-title">
    <h2 id="browse-title">Knowledge</h2>
    <form class="row" role="search" onSubmit=${submit}>
      <label class="grow">Find facts
        <input type="search" id="find" aria-keyshortcuts="f" value=${typed}
          onInput=${(event) => setTyped(event.target.value)} onSearch=${submit} />
      </label>
      <button>Find</button>
      <button type="button" id="add" onClick=${() => setAdding(true)}>Add a fact</button>
    </form>
    ${adding && html`<${NewFact} onSaved=${added} onCancel=${() => setAdding(false)} />`}
    <${Documents} key=${namespace} onShow=${setOf} />
    ${of !== null && html`<p class="row" id="of">
      <span class="hint">Only of document <code>${of}</code></span>
      <button onClick=${() => setOf(null)}>All facts</button>
    </p>`}
    ${query
      ? html`<${Found} key=${`${namespace} ${of} ${query}`} query=${query} of=${of} onShow=${setOf} onEdited=${onEdited} />`
      : html`<${Pages} key=${`${namespace} ${of}`} of=${of} onShow=${setOf} onEdited=${onEdited} />`}
    <${Transfer} />
  </section>`;
}

/** Of a document's facts; null: of all. */
const filter = (of) => (of === null ? null : { "document.id": { eq: of } });

function Found({ query, of, onShow, onEdited }) {
  const { namespace } = useServer();
  const { value, problem } = useRead(
    (api) => api.json("POST", "admin/kb/search", { query, namespace, top_k: FOUND, filter: filter(of) }), [query, namespace, of]);
  return html`<${Trouble} problem=${problem} />
    ${value && html`<p class="hint">${value.hits.length ? `${count(value.hits.length, "fact")} for “${quoted(query)}”` : `Nothing is relevant to “${quoted(query)}”.`}</p>`}
    <ul class="facts" id="found">
      ${value?.hits.map(
        ({ fact, score, lexical }) => html`<${Listed} key=${fact.id} fact=${fact} onShow=${onShow} onEdited=${onEdited}
          note=${`meaning ${decimal(score)}, words ${decimal(lexical)}`} />`,
      )}
    </ul>`;
}

function Pages({ of, onShow, onEdited }) {
  const { namespace } = useServer();
  const [cursors, setCursors] = useState([null]); // of the pages up to this one
  const path = withQuery("admin/kb/facts", {
    namespace, limit: PAGE, cursor: cursors.at(-1), filter: of === null ? null : JSON.stringify(filter(of)),
  });
  const { value, problem } = useRead((api) => api.json("GET", path), [path]);
  useEffect(() => {
    // The last fact of the last page was deleted.
    if (value?.facts.length === 0 && cursors.length > 1) setCursors(cursors.slice(0, -1));
  }, [value]);
  return html`<${Trouble} problem=${problem} />
    ${value?.facts.length === 0 && html`<p class="hint">${of === null ? `Namespace “${namespace}” holds no facts.` : "It has no facts any more."}</p>`}
    <ul class="facts" id="listed">
      ${value?.facts.map((fact) => html`<${Listed} key=${fact.id} fact=${fact} note="" onShow=${onShow} onEdited=${onEdited} />`)}
    </ul>
    <nav class="row" aria-label="Pages of facts">
      <button disabled=${cursors.length === 1} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous</button>
      <span class="number">Page ${cursors.length}</span>
      <button disabled=${!value?.next_cursor} onClick=${() => setCursors([...cursors, value.next_cursor])}>Next</button>
    </nav>`;
}

function Listed({ fact, note, onShow, onEdited }) {
  const { api, probe } = useServer();
  const [editing, setEditing] = useState(false);
  const [remove, removing] = useAction(async () => {
    const seen = { namespace: fact.namespace, if_version: fact.version };
    await api.json("DELETE", withQuery(`admin/kb/facts/${encodeURIComponent(fact.id)}`, seen));
    await probe();
  });
  const edited = (edit) => {
    setEditing(false);
    onEdited(edit);
  };
  return html`<li class="fact" data-fact=${fact.id}>
    <div class="row head">
      <code>${fact.id}</code><span class="tag">v${fact.version}</span>
      ${note && html`<span class="hint">${note}</span>`}
      <span class="row end">
        ${!editing && html`<button class="edit" onClick=${() => setEditing(true)} aria-label=${`Edit ${fact.id}`}>Edit</button>`}
        <button disabled=${removing.busy} onClick=${remove} aria-label=${`Delete ${fact.id}`}>Delete</button>
      </span>
    </div>
    ${editing
      ? html`<${EditFact} id=${fact.id} namespace=${fact.namespace} onSaved=${edited} onCancel=${() => setEditing(false)} />`
      : html`<p class="text" dir="auto">${fact.text}</p>`}
    <${Origin} metadata=${fact.metadata} onShow=${onShow} />
    <${Trouble} problem=${removing.problem} />
  </li>`;
}
