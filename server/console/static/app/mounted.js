// The facts that the answer had: how well they fit, how much attention they got, and which of their words it has.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { Bar } from "./bar.js";
import { Origin } from "./documents.js";
import { EditFact } from "./editor.js";
import { decimal, percent } from "./format.js";
import { Marked } from "./marked.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";
import { wordsOf } from "./words.js";

export function Mounted({ answer, onEdited }) {
  const facts = answer.knowledge?.facts;
  return html`<section class="card" aria-labelledby="mounted-title">
    <h2 id="mounted-title">Mounted facts</h2>
    ${!facts && html`<p class="hint">What the answer was drawn from is listed here once it is complete.</p>`}
    ${facts?.length === 0 && html`<p>None: no fact is relevant enough. The answer is the model's own.</p>`}
    <ol class="facts">
      ${facts?.map((fact) => html`<${MountedFact} key=${fact.id} fact=${fact} answer=${answer} onEdited=${onEdited} />`)}
    </ol>
  </section>`;
}

function MountedFact({ fact, answer, onEdited }) {
  const { text, metadata, problem } = useTextOf(fact, answer.namespace);
  const [editing, setEditing] = useState(false);
  const said = wordsOf(answer.text);
  const edited = (edit) => {
    setEditing(false);
    onEdited(edit);
  };
  return html`<li class="fact" data-fact=${fact.id}>
    <div class="row head">
      <code>${fact.id}</code><span class="tag">v${fact.version}</span>
      ${!editing && html`<button class="edit" onClick=${() => setEditing(true)} aria-label=${`Edit ${fact.id}`}>Edit</button>`}
    </div>
    ${editing
      ? html`<${EditFact} id=${fact.id} namespace=${answer.namespace} onSaved=${edited} onCancel=${() => setEditing(false)} />`
      : text !== null && html`<p class="text" dir="auto"><${Marked} text=${text} wanted=${(word) => said.has(word)} /></p>`}
    <${Origin} metadata=${metadata} />
    <${Trouble} problem=${problem} />
    <${Bar} label="Meaning" share=${fact.score} text=${decimal(fact.score)} />
    <${Bar} label="Words" share=${fact.lexical} text=${decimal(fact.lexical)} />
    <${Bar} label="Attention" share=${fact.attention} text=${percent(fact.attention)} />
  </li>`;
}

/** What the fact said in the version that was mounted, even if it was edited since. */
function useTextOf({ id, version }, namespace) {
  const { api, keys } = useServer();
  const [state, setState] = useState({ text: null, metadata: null, problem: null });
  useEffect(() => {
    const path = `admin/kb/facts/${encodeURIComponent(id)}/history`;
    api.json("GET", withQuery(path, { namespace, limit: 1, before: version + 1 })).then(
      (history) => setState({ text: history.versions[0]?.text ?? null, metadata: history.versions[0]?.metadata ?? null, problem: null }),
      (problem) => setState({ text: null, metadata: null, problem }),
    );
  }, [id, version, namespace, keys]);
  return state;
}
