// Reading from the server: one hook for every part that shows what the server has.

import { useCallback, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { useServer } from "./server.js";

/** {value, problem, reload}: what `read(api)` gives, anew whenever the knowledge, the keys or `inputs` change.
 * Of answers that overtake each other the last question's counts. Where there is none, what was there before stays:
 * somebody may be typing in it. */
export function useRead(read, inputs) {
  const { api, version, keys, state } = useServer();
  const asking = JSON.stringify(inputs);
  const [result, setResult] = useState({ value: null, problem: null, asking });
  const asked = useRef(0);
  const reload = useCallback(async () => {
    const turn = ++asked.current;
    const next = await read(api).then(
      (value) => ({ value, problem: null, asking }),
      (problem) => ({ problem, asking }),
    );
    if (turn === asked.current) setResult((last) => ({ value: last.asking === asking ? last.value : null, ...next }));
  }, [api, ...inputs]);
  useEffect(() => {
    if (state === "ready") reload();
  }, [reload, version, keys, state]);
  return { ...result, reload };
}

/** [run, {busy, problem}]: for what a button does. `run` never raises. */
export function useAction(action) {
  const [state, setState] = useState({ busy: false, problem: null });
  const run = async (...given) => {
    setState({ busy: true, problem: null });
    try {
      const result = await action(...given);
      setState({ busy: false, problem: null });
      return result;
    } catch (problem) {
      setState({ busy: false, problem });
      return undefined;
    }
  };
  return [run, state];
}
