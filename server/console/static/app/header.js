// What is served, whether it is there, and the way to the keys.

import { html } from "../vendor/htm-preact.js";
import { useServer } from "./server.js";

const WORDS = { starting: "connecting", ready: "ready", busy: "not ready", gone: "gone" };

export function Header() {
  const { model, version, state, reason } = useServer();
  return html`<header>
    <h1><img src="console/icon.svg" alt="" width="28" height="28" />KalmaGrove</h1>
    <p class="served">
      ${model && html`<span class="tag">${model}</span>`}
      ${version !== null && html`<span class="tag" id="version">knowledge v${version}</span>`}
      <span class="tag state ${state}" role="status">${WORDS[state]}</span>
      <a class="button" href="#keys">Keys</a>
    </p>
    ${(state === "gone" || state === "busy") &&
    html`<p class="trouble banner" role="alert">
      ${reason} ${state === "gone" && "Nothing is lost: this page tries again until it is back."}
    </p>`}
  </header>`;
}
