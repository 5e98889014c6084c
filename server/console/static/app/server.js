// What every part of the page shares: the API, what is known of the server, and what was measured.

import { createContext, useCallback, useContext, useEffect, useMemo, useState } from "../vendor/htm-preact.js";
import { Api, unreachable } from "./api.js";

const PROBE_MS = 2000;
const PATIENCE_MS = 5000;
const KEPT = 60;
const Server = createContext(null);

export const ServerProvider = Server.Provider;
export const useServer = () => useContext(Server);
/** For what is asked again and again: of a server that stands still, no more and more answers are waited for. */
export const patience = () => AbortSignal.timeout(PATIENCE_MS);

/** Looks at once and then again and again while the page is seen, never before the last look has ended; returns what stops it. */
export function repeating(look, everyMs) {
  let looking = false;
  const turn = async () => {
    if (looking || document.hidden) return;
    looking = true;
    await look().finally(() => { looking = false; });
  };
  turn();
  const timer = setInterval(turn, everyMs);
  return () => clearInterval(timer);
}

/** The one server of the page. Its fields:
 * api; state ("starting", "ready", "busy", "gone"), reason, model, version: as the server last told;
 * keys: counts up when other keys are used; use(keys); probe(): look at once;
 * measured: {ttft: [ms], edit: [ms]}, the latest last; measure(kind, ms); namespace, setNamespace. */
export function useNewServer() {
  const api = useMemo(() => new Api(), []);
  const [status, setStatus] = useState({ state: "starting", reason: "", model: "", version: null });
  const [keys, setKeys] = useState(0);
  const [measured, setMeasured] = useState({ ttft: [], edit: [] });
  const [namespace, setNamespace] = useState("default");

  const probe = useCallback(async () => {
    const next = await probed(api);
    setStatus((last) => (same(last, { ...last, ...next }) ? last : { ...last, ...next }));
  }, [api]);
  useEffect(() => repeating(probe, PROBE_MS), [probe]);

  useEffect(() => {
    if (keys > 0) stateFor(api).then((told) => told?.access.read && setNamespace((now) => within(now, told.access)));
  }, [api, keys]);
  const use = useCallback((given) => {
    api.use(given);
    setKeys((times) => times + 1);
  }, [api]);
  const measure = useCallback((kind, ms) => {
    setMeasured((all) => ({ ...all, [kind]: [...all[kind], ms].slice(-KEPT) }));
  }, []);
  return { api, ...status, keys, use, probe, measured, measure, namespace, setNamespace };
}

async function probed(api) {
  try {
    const ready = await api.json("GET", "ready", undefined, { signal: patience() });
    const version = ready.knowledge_version ?? (await stateFor(api))?.version ?? null;
    return { state: "ready", reason: "", model: ready.model, version };
  } catch (problem) {
    return problem.status ? { state: "busy", reason: problem.message } : { state: "gone", reason: unreachable().message };
  }
}

/** The knowledge as far as the key may know of it; null: there is no such key. */
async function stateFor(api) {
  return api.json("GET", "admin/kb/version", undefined, { signal: patience() }).catch(() => null);
}

/** This namespace, if a key that is bound to some may read it; else the one where it is at home. */
function within(namespace, { read, home }) {
  return read.includes(namespace) ? namespace : home;
}

function same(one, other) {
  return Object.keys(other).every((name) => one[name] === other[name]);
}
