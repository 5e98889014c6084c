// The difference of two versions, fact by fact.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { withQuery } from "./api.js";
import { json } from "./format.js";
import { useAction } from "./loading.js";
import { Marked } from "./marked.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";
import { wordsOf } from "./words.js";

const PAGE = 50;

export function Changes({ before, after }) {
  const { api } = useServer();
  const [found, setFound] = useState({ changes: [], cursor: undefined }); // cursor: null when there are no more
  const [more, { busy, problem }] = useAction(async () => {
    const query = { before, after, limit: PAGE, cursor: found.cursor };
    const page = await api.json("GET", withQuery("admin/kb/diff", query));
    setFound({ changes: [...found.changes, ...page.changes], cursor: page.next_cursor });
  });
  useEffect(() => {
    more();
  }, []);
  return html`<${Trouble} problem=${problem} />
    ${found.cursor === null && found.changes.length === 0 && html`<p class="hint">They say the same.</p>`}
    <ul class="facts">
      ${found.changes.map((change) => html`<${Change} key=${`${change.namespace}/${change.id}`} change=${change} />`)}
    </ul>
    ${found.cursor && html`<button disabled=${busy} onClick=${more}>More</button>`}`;
}

function Change({ change: { id, namespace, before, after } }) {
  const kind = !before ? "added" : !after ? "removed" : "changed";
  const [old, now] = [wordsOf(before?.text ?? ""), wordsOf(after?.text ?? "")];
  const besides = before && after && before.text === after.text;
  return html`<li class="fact change" data-fact=${id}>
    <div class="row head">
      <code>${namespace === "default" ? id : `${namespace}/${id}`}</code><span class="tag ${kind}">${kind}</span>
    </div>
    ${besides
      ? html`<p class="text" dir="auto">${after.text}</p>
          <p class="hint">Metadata or expiry: ${rest(before)} → ${rest(after)}</p>`
      : html`${before && html`<p class="text old" dir="auto"><${Marked} tag="del" text=${before.text} wanted=${(word) => after && old.has(word) && !now.has(word)} /></p>`}
          ${after && html`<p class="text new" dir="auto"><${Marked} tag="ins" text=${after.text} wanted=${(word) => before && now.has(word) && !old.has(word)} /></p>`}`}
  </li>`;
}

const rest = ({ metadata, expires_at }) => json({ metadata, expires_at });
