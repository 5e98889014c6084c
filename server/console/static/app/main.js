// The page put together.

import { html, render, useState } from "../vendor/htm-preact.js";
import { Ask } from "./ask.js";
import { useAsking } from "./asking.js";
import { Browse } from "./browse.js";
import { Header } from "./header.js";
import { Keys } from "./keys.js";
import { Latency } from "./latency.js";
import { Mounted } from "./mounted.js";
import { ServerProvider, useNewServer } from "./server.js";
import { Shortcuts } from "./shortcuts.js";
import { Versions } from "./versions.js";

function Page() {
  const server = useNewServer();
  return html`<${ServerProvider} value=${server}><${Parts} /></${ServerProvider}>`;
}

function Parts() {
  const { answer, earlier, ask, stop } = useAsking();
  const [edit, setEdit] = useState(null);
  const onAsk = (question, options) => ask(question, { ...options, minVersion: edit?.version });
  const onEdited = (edited) => {
    setEdit(edited);
    document.querySelector("#ask").focus(); // Enter asks again
  };
  return html`<${Header} />
    <main>
      <${Keys} />
      <${Ask} answer=${answer} earlier=${earlier} edit=${edit} onAsk=${onAsk} onStop=${stop} />
      <${Mounted} answer=${answer} onEdited=${onEdited} />
      <${Browse} onEdited=${onEdited} />
      <div class="column">
        <${Versions} />
        <${Latency} />
      </div>
    </main>
    <${Shortcuts} />`;
}

render(html`<${Page} />`, document.body);
