// A fact in the making: a new one, or one that is edited in place.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Problem, withQuery } from "./api.js";
import { quoted } from "./format.js";
import { useAction } from "./loading.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";

const QUOTED = 300;

/** Loads the fact as it is now and edits its text; metadata and expiry stay. `onSaved` gets {id, version, visibleMs, tookMs}. */
export function EditFact({ id, namespace, onSaved, onCancel }) {
  const { api } = useServer();
  const [fact, setFact] = useState(null);
  const [load, loading] = useAction(async () => {
    setFact(await api.json("GET", withQuery(`admin/kb/facts/${encodeURIComponent(id)}`, { namespace })));
  });
  useEffect(() => {
    load();
  }, [id, namespace]);
  if (!fact) {
    return html`<${Trouble} problem=${loading.problem} />
      ${loading.problem && html`<button type="button" onClick=${onCancel}>Close</button>`}`;
  }
  return html`<${FactForm} fact=${fact} onSaved=${onSaved} onCancel=${onCancel} />`;
}

export function NewFact({ onSaved, onCancel }) {
  const { namespace } = useServer();
  return html`<${FactForm} isNew fact=${{ id: "", namespace, text: "" }} onSaved=${onSaved} onCancel=${onCancel} />`;
}

function FactForm({ fact, isNew, onSaved, onCancel }) {
  const save = useSaving();
  const seen = useRef(fact); // what a save is to replace; without a version: nothing
  const [id, setId] = useState(fact.id);
  const [text, setText] = useState(fact.text);
  const [run, { busy, problem }] = useAction(save);
  const first = useRef();
  useEffect(() => first.current.focus(), []);
  const submit = async (event) => {
    event.preventDefault();
    const saved = await run({ id: id.trim(), namespace: fact.namespace, text, isNew }, seen);
    if (saved) onSaved(saved);
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    if (event.key === "Escape") onCancel();
  };
  return html`<form class="editor" onSubmit=${submit} onKeyDown=${onKeyDown}>
    ${isNew && html`<label>Id <input ref=${first} required value=${id} onInput=${(event) => setId(event.target.value)} /></label>`}
    <label>${isNew ? "Text" : `Text of ${fact.id}`}
      <textarea rows="3" dir="auto" required ref=${isNew ? null : first} value=${text} aria-keyshortcuts="Control+Enter Escape"
        onInput=${(event) => setText(event.target.value)}></textarea>
    </label>
    <div class="row">
      <button class="main" disabled=${busy}>${busy ? "Saving …" : "Save"}</button>
      <button type="button" onClick=${onCancel}>Cancel</button>
    </div>
    <${Trouble} problem=${problem} />
  </form>`;
}

/** Writes a fact and measures how long it took until it was durable and visible, as seen from here. What somebody else
 * wrote meanwhile is told first, and replaced only if it is saved again. */
function useSaving() {
  const { api, measure, probe } = useServer();
  return async ({ id, namespace, text, isNew }, seen) => {
    const { metadata, expires_at } = seen.current;
    const fact = { id, namespace, text, ...(!isNew && { metadata, expires_at }) };
    const if_version = (seen.current.id === id && seen.current.version) || 0;
    const started = performance.now();
    let reply;
    try {
      reply = await api.json("PUT", "admin/kb/facts", { facts: [{ ...fact, if_version }] });
    } catch (problem) {
      if (problem.code !== "version_conflict") throw problem;
      const now = await current(api, id, namespace);
      seen.current = now ?? { id, metadata, expires_at };
      throw new Problem(409, "changed", conflict(now, isNew));
    }
    const tookMs = performance.now() - started;
    measure("edit", tookMs);
    probe();
    return { id, version: reply.version, visibleMs: reply.visible_ms, tookMs };
  };
}

/** The fact as it is; null if there is none. */
async function current(api, id, namespace) {
  try {
    return await api.json("GET", withQuery(`admin/kb/facts/${encodeURIComponent(id)}`, { namespace }));
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

function conflict(now, isNew) {
  if (!now) return "Somebody deleted it meanwhile. Save again to bring it back.";
  const text = quoted(now.text).slice(0, QUOTED);
  return isNew
    ? `There is a fact with this id: “${text}” Save again to replace it.`
    : `Somebody changed it meanwhile: “${text}” Save again to replace that.`;
}
