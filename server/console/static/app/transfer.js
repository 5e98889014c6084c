// NDJSON in and out.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { Problem, withQuery } from "./api.js";
import { count, quoted } from "./format.js";
import { useAction } from "./loading.js";
import { Trouble } from "./notices.js";
import { useServer } from "./server.js";
import { records, whole } from "./streams.js";

export function Transfer() {
  const { api, namespace, probe } = useServer();
  const [over, setOver] = useState(false);
  const [told, setTold] = useState("");

  const [take, taking] = useAction(async (file) => {
    const name = quoted(file.name);
    setTold(`Importing ${name} …`);
    try {
      await requireReadable(file, name);
      const path = withQuery("admin/kb/import", { namespace });
      const response = await api.open("POST", path, { body: file, type: "application/x-ndjson" });
      for await (const { imported, done } of records(response)) {
        setTold(`${count(imported, "fact")} imported from ${name}${done ? "." : " so far …"}`);
      }
      return true;
    } catch (problem) {
      setTold(problem.imported ? `${count(problem.imported, "fact")} imported from ${name} before that.` : "");
      throw problem;
    } finally {
      await probe();
    }
  });
  const [give, giving] = useAction(async () => {
    const response = await api.open("GET", withQuery("admin/kb/export", { namespace }));
    const version = response.headers.get("X-Knowledge-Version");
    save(await whole(response), `${namespace}-v${version}.ndjson`);
  });
  const takeAll = async (files) => {
    for (const file of files) if (!(await take(file))) break;
  };
  useEffect(() => {
    for (const kind of ["dragover", "drop"]) addEventListener(kind, keepPage);
    return () => ["dragover", "drop"].forEach((kind) => removeEventListener(kind, keepPage));
  }, []);
  const onDrop = (event) => {
    event.preventDefault();
    setOver(false);
    if (!taking.busy) takeAll([...event.dataTransfer.files]);
  };
  const onPick = async (event) => {
    const input = event.target;
    await takeAll([...input.files]);
    input.value = ""; // the same file may be picked again
  };
  return html`<div class="transfer ${over ? "over" : ""}" onDrop=${onDrop} onDragLeave=${() => setOver(false)}
      onDragOver=${(event) => (event.preventDefault(), setOver(true))}>
      <label>Import: drop files of NDJSON here, or pick some
        <input type="file" multiple accept=".ndjson,.jsonl,application/x-ndjson" disabled=${taking.busy} onChange=${onPick} />
      </label>
      <button disabled=${giving.busy} onClick=${() => give()}>Export</button>
      <p role="status" class="hint">${told}</p>
    </div>
    <${Trouble} problem=${taking.problem ?? giving.problem} />`;
}

/** Raises Problem for a directory: of a body that cannot be read, fetch says no more than of a server that is not there. */
async function requireReadable(file, name) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem(400, "unreadable", `${name} cannot be read.`);
  }
}

/** A file that misses the target would be opened in place of the page, and the keys be gone. */
function keepPage(event) {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
