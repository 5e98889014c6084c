// The question, and the answer as it comes.

import { html, useState } from "../vendor/htm-preact.js";
import { Bar } from "./bar.js";
import { count, milliseconds, percent } from "./format.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";

const RUNNING = new Set(["waiting", "streaming"]);

export function Ask({ answer, earlier, edit, onAsk, onStop }) {
  const { model } = useServer();
  const [question, setQuestion] = useState("");
  const [options, setOptions] = useState({ maxTokens: 60, topK: undefined });
  const running = RUNNING.has(answer.phase);
  const submit = (event) => {
    event.preventDefault();
    if (question.trim() && model) onAsk(question.trim(), options);
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape" && running) onStop();
  };
  return html`<section class="card" aria-labelledby="ask-title">
    <h2 id="ask-title">Ask</h2>
    <form onSubmit=${submit}>
      <label for="question">Question</label>
      <textarea id="question" dir="auto" rows="2" value=${question} aria-keyshortcuts="/" onKeyDown=${onKeyDown}
        placeholder="Who is the chief executive of …?"
        onInput=${(event) => setQuestion(event.target.value)}></textarea>
      <div class="row">
        <button class="main" id="ask">${answer.question && answer.question === question.trim() ? "Ask again" : "Ask"}</button>
        ${running && html`<button type="button" onClick=${onStop}>Stop</button>`}
        <${Options} options=${options} onChange=${setOptions} />
      </div>
    </form>
    <p class="edited" id="edited" role="status">
      ${edit && `${edit.id} is durable and visible as version ${edit.version}: ${milliseconds(edit.visibleMs)} in the server, ${milliseconds(edit.tookMs)} from here.`}
    </p>
    <${Answer} answer=${answer} running=${running} />
    ${earlier && html`<${Earlier} answer=${earlier} />`}
  </section>`;
}

function Options({ options, onChange }) {
  const { namespace, setNamespace } = useServer();
  const number = (name) => (event) => onChange({ ...options, [name]: event.target.valueAsNumber || undefined });
  return html`<details class="options">
    <summary>Options</summary>
    <div class="fields">
      <label>Namespace <input value=${namespace} onChange=${(event) => setNamespace(event.target.value.trim() || "default")} /></label>
      <label>Facts at most <input type="number" min="1" max="64" value=${options.topK} placeholder="server's" onInput=${number("topK")} /></label>
      <label>Tokens at most <input type="number" min="1" max="2048" value=${options.maxTokens} onInput=${number("maxTokens")} /></label>
    </div>
  </details>`;
}

function Answer({ answer, running }) {
  if (answer.phase === "idle") return html`<p class="hint" id="answer">The answer appears here while it is written.</p>`;
  return html`<div class="answer">
    <p class="said" dir="auto" id="answer" aria-live="polite" aria-busy=${running}>${answer.text}${running && html`<span class="caret"></span>`}</p>
    <${Trouble} problem=${answer.problem} />
    ${answer.phase === "stopped" && html`<p class="hint">Stopped.</p>`}
    ${answer.ttft !== null &&
    html`<p class="hint">
      First words after <span class="number">${milliseconds(answer.ttft)}</span>
      ${answer.knowledge &&
      html`, from knowledge v${answer.knowledge.version}, ${count(answer.knowledge.facts.length, "fact")} mounted in
      <span class="number"> ${milliseconds(answer.knowledge.retrieval_ms)}</span>`}
    </p>`}
    ${answer.knowledge && html`<${Grounded} knowledge=${answer.knowledge} />`}
  </div>`;
}

function Grounded({ knowledge }) {
  const { grounded, fact_mounted: mounted, follows_fact: follows } = knowledge;
  if (grounded === null) return html`<p class="hint">How grounded it is cannot be told for this model.</p>`;
  return html`<div id="grounded">
    <${Bar} label="Grounded" share=${grounded} text=${percent(grounded)} />
    <p class="hint">The right fact is mounted: ${percent(mounted)}. The answer follows it: ${percent(follows)}.</p>
  </div>`;
}

function Earlier({ answer }) {
  return html`<div class="earlier" id="earlier">
    <h3>Before${answer.knowledge && `, from v${answer.knowledge.version}`}</h3>
    <p class="hint">${answer.question}</p>
    <p class="said" dir="auto">${answer.text}</p>
  </div>`;
}
