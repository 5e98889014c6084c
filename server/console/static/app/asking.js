// One question at a time: from the request to the last word of the streamed answer.

import { useCallback, useRef, useState } from "../vendor/htm-preact.js";
import { useServer } from "./server.js";
import { events } from "./streams.js";

/** phase: "idle", "waiting", "streaming", "done", "stopped" or "failed". */
const NOTHING = { phase: "idle", question: "", namespace: "", text: "", knowledge: null, ttft: null, problem: null };

/** {answer, earlier, ask(question, options), stop()}. `earlier` is the answer before, to compare with.
 * Options: maxTokens, topK (undefined: the server's), minVersion. */
export function useAsking() {
  const { api, model, namespace, measure, probe } = useServer();
  const [answer, setAnswer] = useState(NOTHING);
  const [earlier, setEarlier] = useState(null);
  const running = useRef(null);

  const stop = useCallback(() => running.current?.abort(), []);
  const ask = useCallback(
    async (question, options) => {
      running.current?.abort();
      const turn = (running.current = new AbortController());
      const update = (fields) => running.current === turn && setAnswer((last) => ({ ...last, ...fields }));
      setAnswer((last) => {
        if (last.phase === "done") setEarlier(last);
        return { ...NOTHING, question, namespace, phase: "waiting" };
      });
      try {
        const body = request(model, namespace, question, options);
        const started = performance.now();
        const path = "v1/chat/completions";
        const response = await api.open("POST", path, { body: JSON.stringify(body), signal: turn.signal });
        await follow(response, started, update, (ms) => measure("ttft", ms));
        update({ phase: "done" });
      } catch (problem) {
        update(problem.name === "AbortError" ? { phase: "stopped" } : { phase: "failed", problem });
        probe();
      }
    },
    [api, model, namespace],
  );
  return { answer, earlier, ask, stop };
}

function request(model, namespace, question, { maxTokens, topK, minVersion }) {
  return {
    model,
    messages: [{ role: "user", content: question }],
    stream: true,
    temperature: 0,
    max_tokens: maxTokens,
    knowledge: { namespace, top_k: topK, min_version: minVersion },
  };
}

async function follow(response, started, update, measure) {
  let text = "";
  for await (const event of events(response)) {
    const choice = event.choices[0];
    if (choice?.delta.content && !text) {
      const ttft = performance.now() - started;
      measure(ttft);
      update({ ttft, phase: "streaming" });
    }
    if (choice?.delta.content) update({ text: (text += choice.delta.content) });
    if (event.knowledge) update({ knowledge: event.knowledge });
  }
}
