// The server's HTTP API. Keys live in this object only: nothing here is ever written to storage.

const ROOT = new URL("../../", import.meta.url);

/** A refusal, or a server that does not answer (status 0). */
export class Problem extends Error {
  constructor(status, code, message, imported = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.imported = imported; // facts, of an import that failed after them
  }

  /** Whether another key would help. */
  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

export class Api {
  #keys = { client: "", admin: "" };

  /** @param {{client: string, admin: string}} keys empty: none */
  use(keys) {
    this.#keys = { ...keys };
  }

  /** Sends a request, with JSON if there is a body. Raises Problem unless the answer is a success. */
  async json(method, path, body, options = {}) {
    const response = await this.open(method, path, { body: body && JSON.stringify(body), ...options });
    return response.json();
  }

  /** The same, but gives the response as it comes. */
  async open(method, path, { body, type = "application/json", signal } = {}) {
    const response = await this.#send(path, { method, body, signal, headers: this.#headers(path, body && type) });
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async #send(path, request) {
    try {
      return await fetch(new URL(path, ROOT), { ...request, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw unreachable();
    }
  }

  #headers(path, type) {
    const key = path.startsWith("admin/") ? this.#keys.admin : this.#keys.client || this.#keys.admin;
    if (/[^\x21-\x7e]/.test(key)) throw new Problem(401, "invalid_api_key", "The key is not known."); // no header takes it
    return { ...(key && { Authorization: `Bearer ${key}` }), ...(type && { "Content-Type": type }) };
  }
}

/** A path with parameters, without those that are undefined. */
export function withQuery(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The problem that an error object in the midst of a stream tells. */
export function told(error, imported) {
  return new Problem(500, error.code, error.message, imported);
}

export function unreachable() {
  return new Problem(0, "unreachable", "The server does not answer.");
}

async function refusal(response) {
  try {
    const { error, imported } = await response.json();
    return new Problem(response.status, error.code, error.message, imported);
  } catch {
    return new Problem(response.status, null, `The server answered ${response.status}.`);
  }
}
