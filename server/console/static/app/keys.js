// The keys: entered once, held by the Api object, gone with the page.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Api } from "./api.js";
import { useServer } from "./server.js";

const PROBES = { client: "v1/models", admin: "admin/kb/version" };
const NAMES = { client: "API key", admin: "Admin key" };

export function Keys() {
  const { api, keys, state, use } = useServer();
  const [given, setGiven] = useState({ client: "", admin: "" });
  const [told, setTold] = useState({});
  const [open, setOpen] = useState(false);
  const first = useRef();

  useEffect(() => {
    if (state === "ready" && keys === 0) tried(api, "client").then((problem) => problem && setOpen(true));
  }, [state, keys]);
  useEffect(() => {
    const shown = () => {
      if (location.hash !== "#keys") return;
      setOpen(true);
      history.replaceState(null, "", location.pathname);
      requestAnimationFrame(() => first.current?.focus());
    };
    addEventListener("hashchange", shown);
    return () => removeEventListener("hashchange", shown);
  }, []);

  const submit = async (event) => {
    event.preventDefault();
    const trial = new Api();
    trial.use(given);
    const problems = {};
    for (const role of Object.keys(PROBES)) if (given[role]) problems[role] = await tried(trial, role);
    setTold(problems);
    use(given);
    if (!problems.client && !problems.admin) {
      setOpen(false);
      setGiven({ client: "", admin: "" });
    }
  };

  if (!open) return null;
  return html`<form class="card keys" onSubmit=${submit} aria-labelledby="keys-title">
    <h2 id="keys-title">Keys</h2>
    <p class="hint">Kept in this page's memory only; closing or reloading it forgets them.</p>
    ${Object.keys(NAMES).map(
      (role, index) => html`<label key=${role}>
        ${NAMES[role]}
        <input type="password" autocomplete="off" spellcheck=${false} ref=${index === 0 ? first : null}
          value=${given[role]} aria-invalid=${Boolean(told[role])}
          onInput=${(event) => setGiven({ ...given, [role]: event.target.value })} />
        ${told[role] && html`<span class="trouble" role="alert">${told[role].message}</span>`}
      </label>`,
    )}
    <div class="row">
      <button class="main">Use keys</button>
      <button type="button" onClick=${() => setOpen(false)}>Close</button>
    </div>
  </form>`;
}

/** What the server says to a role's key; null: welcome. */
async function tried(api, role) {
  try {
    await api.json("GET", PROBES[role]);
    return null;
  } catch (problem) {
    return problem;
  }
}
