"""The server as a client sees it: the few calls that the scenarios need, with clocks on the streaming one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtests.answer import Answer, AnswerReader
from loadtests.refusals import RequestError, refusal

STANDSTILL_S = 10.0
"""Without another page for so long, no more are made."""
LOOK_S = 0.25
IMPORT_BATCH = 64
"""Facts per PUT when a scenario loads its knowledge."""
KEEPALIVE_S = 2.0
"""How long a connection is kept for the next request."""


@dataclass(frozen=True, slots=True)
class FactRecord:
    """A fact as the scenarios write it."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """An acknowledged edit, with the time the client waited for it."""

    version: int
    visible_ms: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is and what opens it. A server without keys takes None."""

    url: str
    client_key: str | None = None
    admin_key: str | None = None
    admin_url: str | None = None
    """Where /admin is; None: there as well."""
    pid: int | None = None
    """The server's process, where it is one of this machine and known."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Fields of every completion."""
    endless: Mapping[str, object] = field(default_factory=lambda: {"ignore_eos": True})
    """What in a request makes the model go on to max_tokens, whatever it says."""
    keeps_connections: bool = True
    """False: every request takes a connection of its own, as the server closes them without having said so."""


class ServerClient:
    """One HTTP client (one pool of connections) of a server. Every call raises RequestError."""

    def __init__(self, http: httpx.AsyncClient, target: Target, model: str) -> None:
        self._http = http
        self._target = target
        self.model = model

    async def json(
        self, method: str, path: str, *, body: object = None, params: Mapping[str, str] | None = None
    ) -> Any:
        return (await self._request(method, path, body, params)).json()

    async def metrics(self) -> str:
        """The exposition text."""
        return (await self._request("GET", "/metrics", None, None)).text

    async def _request(self, method: str, path: str, body: object, params: Mapping[str, str] | None) -> httpx.Response:
        admin, target = path.startswith("/admin"), self._target
        apart = target.admin_url if admin or path == "/metrics" else None
        key = target.admin_key if admin or (path == "/metrics" and target.admin_key) else target.client_key
        url = f"{apart.rstrip('/')}{path}" if apart else path
        try:
            response = await self._http.request(method, url, json=body, params=params, headers=_bearer(key))
        except httpx.HTTPError as error:
            raise RequestError(f"{method} {path}: {type(error).__name__} {error}") from error
        if response.is_error:
            raise refusal(f"{method} {path}", response)
        return response

    async def put_facts(self, facts: Sequence[FactRecord], namespace: str, expires_at: float) -> Edit:
        """One batch, all or nothing. `expires_at` (unix seconds) cleans up behind a load test."""
        rows = [{"id": f.id, "text": f.text, "namespace": namespace, "expires_at": expires_at} for f in facts]
        started = time.perf_counter()
        reply = await self.json("PUT", "/admin/kb/facts", body={"facts": rows})
        seconds = time.perf_counter() - started
        return Edit(int(reply["version"]), float(reply["visible_ms"]), seconds)

    async def fact_text(self, fact_id: str, namespace: str) -> str:
        return str((await self._fact(fact_id, namespace))["text"])

    async def fact_page(self, fact_id: str, namespace: str) -> str:
        """The name of the K/V pages that the fact's present text has."""
        return str((await self._fact(fact_id, namespace))["page"])

    async def _fact(self, fact_id: str, namespace: str) -> Any:
        return await self.json("GET", f"/admin/kb/facts/{fact_id}", params={"namespace": namespace})

    async def pages_made(self) -> float:
        """The share of all facts whose pages are made."""
        return float((await self.json("GET", "/admin/kb/version"))["pages_made"])

    async def search(self, question: str, knowledge: Mapping[str, object]) -> list[str]:
        """Ids of the facts that the request field would mount for the question, best first."""
        reply = await self.json("POST", "/admin/kb/search", body={"query": question, **knowledge})
        return [str(hit["fact"]["id"]) for hit in reply["hits"]]

    async def count_tokens(self, text: str) -> int:
        reply = await self.json("POST", "/tokenize", body={"model": self.model, "prompt": text})
        return int(reply["count"])

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        knowledge: Mapping[str, object] | None,
        max_tokens: int,
        *,
        to_the_end: bool = False,
        on_content: Callable[[], None] | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> Answer:
        """Stream one chat completion, greedily. `to_the_end`: exactly max_tokens, whatever the model says. `fields`:
        of the request, besides.

        `knowledge` is None for a server that knows no such field. `on_content` is called at every piece of content.
        """
        body = {
            **self._question(messages, knowledge, max_tokens),
            "stream": True,
            "stream_options": {"include_usage": True},
            **(self._target.endless if to_the_end else {}),
            **(fields or {}),
        }
        reader = AnswerReader(time.perf_counter(), on_content)
        try:
            async with self._http.stream(
                "POST", "/v1/chat/completions", json=body, headers=_bearer(self._target.client_key)
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise refusal("chat", response)
                async for line in response.aiter_lines():
                    reader.take(line)
        except httpx.HTTPError as error:
            raise RequestError(f"chat: {type(error).__name__} {error}") from error
        return reader.answer()

    async def ask_whole(
        self, messages: Sequence[Mapping[str, str]], knowledge: Mapping[str, object], max_tokens: int
    ) -> None:
        """One chat completion that is not streamed."""
        await self.json("POST", "/v1/chat/completions", body=self._question(messages, knowledge, max_tokens))

    async def ask_and_leave(
        self, messages: Sequence[Mapping[str, str]], knowledge: Mapping[str, object], max_tokens: int, pieces: int
    ) -> None:
        """Close the connection after so many events of a stream; 0: as soon as the answer begins."""
        body = {**self._question(messages, knowledge, max_tokens), "stream": True, "ignore_eos": True}
        headers = {**_bearer(self._target.client_key), "Connection": "close"}
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
                if response.is_error:
                    await response.aread()
                    raise refusal("chat", response)
                async for line in response.aiter_lines():
                    pieces -= line.startswith("data:")
                    if pieces <= 0:
                        return
        except httpx.HTTPError as error:
            raise RequestError(f"chat: {type(error).__name__} {error}") from error

    def _question(
        self, messages: Sequence[Mapping[str, str]], knowledge: Mapping[str, object] | None, max_tokens: int
    ) -> dict[str, object]:
        return {
            "model": self.model,
            "messages": list(messages),
            **({} if knowledge is None else {"knowledge": dict(knowledge)}),
            "max_tokens": max_tokens,
            "temperature": 0,
            **self._target.extra,
        }


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


@asynccontextmanager
async def connect(target: Target, *, connections: int = 1, timeout_s: float = 60.0) -> AsyncIterator[ServerClient]:
    """A client with its own connections; asks the server which model it serves. Raises RequestError."""
    # Servers close idle connections after 5 s, some of them; at that very moment a request would be lost.
    limits = httpx.Limits(
        max_connections=connections,
        max_keepalive_connections=connections if target.keeps_connections else 0,
        keepalive_expiry=KEEPALIVE_S,
    )
    async with httpx.AsyncClient(
        base_url=target.url,
        limits=limits,
        timeout=timeout_s,
        verify=httpx.create_ssl_context(),
        trust_env=False,
    ) as http:
        client = ServerClient(http, target, "")
        models = await client.json("GET", "/v1/models")
        client.model = str(models["data"][0]["id"])
        yield client


async def load_facts(client: ServerClient, facts: Sequence[FactRecord], namespace: str, expires_at: float) -> int:
    """Write all facts in batches, and wait for their pages; the version after the last batch."""
    version = 0
    for start in range(0, len(facts), IMPORT_BATCH):
        edit = await client.put_facts(facts[start : start + IMPORT_BATCH], namespace, expires_at)
        version = edit.version
    await at_rest(client)
    return version


async def at_rest(client: ServerClient) -> None:
    """Return when all pages are made, or when no more are, because there is no room: a server is measured at rest."""
    share, risen = await client.pages_made(), time.monotonic()
    while share < 1 and time.monotonic() - risen < STANDSTILL_S:
        await asyncio.sleep(LOOK_S)
        now = await client.pages_made()
        if now > share:
            share, risen = now, time.monotonic()
