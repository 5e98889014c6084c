// Streamed answers, read while they come.

import { told, unreachable } from "./api.js";

const LAST_BYTES = 8192; // more than an error takes

/** The payloads of a stream of server-sent events, up to its [DONE]. Raises Problem for an error in it. */
export async function* events(response) {
  for await (const line of lines(response)) {
    if (!line.startsWith("data: ")) continue;
    const data = line.slice("data: ".length);
    if (data === "[DONE]") return;
    yield payload(data);
  }
  throw unreachable(); // it broke off
}

/** The objects of an NDJSON stream. Raises Problem for an error in it. */
export async function* records(response) {
  for await (const line of lines(response)) if (line) yield payload(line);
}

/** A streamed answer of NDJSON as a blob. Raises Problem if it breaks off, or ends with an error. */
export async function whole(response) {
  let blob;
  try {
    blob = await response.blob();
  } catch {
    throw unreachable();
  }
  const end = `${blob.size > LAST_BYTES ? "" : "\n"}${await blob.slice(-LAST_BYTES).text()}`.trimEnd();
  const last = end.slice(end.lastIndexOf("\n") + 1);
  if (end.includes("\n") && last.startsWith('{"error":')) payload(last);
  return blob;
}

function payload(text) {
  const value = parsed(text);
  if (value.error) throw told(value.error, value.imported);
  return value;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw unreachable(); // it broke off within a line
  }
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await read(reader);
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
  if (rest) yield rest;
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
}
