"""The server as a client sees it: the few calls that the scenarios need, with clocks on the streaming one."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

IMPORT_BATCH = 64
"""Facts per PUT when a scenario loads its knowledge."""
KEEPALIVE_S = 2.0
"""How long a connection is kept for the next request."""


class RequestError(Exception):
    """The server refused a request, broke off a stream or answered with something that is no answer."""


class Refused(RequestError):
    """429: the server is full."""

    def __init__(self, message: str, retry_after: str | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """The header of this name, as it came."""


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
class MountedReport:
    """A fact that an answer says it was drawn from."""

    id: str
    version: int
    score: float
    page: str
    """Names the K/V pages that were read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole streamed answer. Times are seconds after the request was sent."""

    text: str
    content_times: tuple[float, ...]
    completion_tokens: int
    """As the server counts them; the pieces of content, where it does not tell."""
    prompt_tokens: int
    """0 where the server does not tell."""
    knowledge_version: int | None
    retrieval_ms: float | None
    facts: tuple[MountedReport, ...]
    ended: float = 0.0
    """When the stream did: tokens without text, as a turn's end, bring no content."""

    @property
    def ttft(self) -> float:
        return self.content_times[0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece of content and the next."""
        return [b - a for a, b in pairwise(self.content_times)]


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
            raise _refusal(f"{method} {path}", response)
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
    ) -> Answer:
        """Stream one chat completion, greedily. `to_the_end`: exactly max_tokens, whatever the model says.

        `knowledge` is None for a server that knows no such field. `on_content` is called at every piece of content.
        """
        body = {
            **self._question(messages, knowledge, max_tokens),
            "stream": True,
            "stream_options": {"include_usage": True},
            **(self._target.endless if to_the_end else {}),
        }
        collector = _Collector(time.perf_counter(), on_content)
        try:
            async with self._http.stream(
                "POST", "/v1/chat/completions", json=body, headers=_bearer(self._target.client_key)
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal("chat", response)
                async for line in response.aiter_lines():
                    collector.take(line)
        except httpx.HTTPError as error:
            raise RequestError(f"chat: {type(error).__name__} {error}") from error
        return collector.answer()

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
                    raise _refusal("chat", response)
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


class _Collector:
    """Reads server-sent events one line at a time."""

    def __init__(self, started: float, on_content: Callable[[], None] | None) -> None:
        self._started = started
        self._on_content = on_content
        self._text: list[str] = []
        self._times: list[float] = []
        self._usage: dict[str, Any] = {}
        self._knowledge: dict[str, Any] = {}
        self._ended: float | None = None

    def take(self, line: str) -> None:
        if not line.startswith("data:"):
            return
        now = time.perf_counter() - self._started
        payload = line[len("data:") :].strip()
        if payload == "[DONE]":
            self._ended = now
            return
        event = json.loads(payload)
        if "error" in event:
            raise RequestError(f"chat: the stream broke off: {_reason(payload)}")
        self._usage = event.get("usage") or self._usage
        self._knowledge = event.get("knowledge") or self._knowledge
        for choice in event["choices"]:
            content = choice["delta"].get("content")
            if content:
                self._text.append(content)
                self._times.append(now)
                if self._on_content:
                    self._on_content()

    def answer(self) -> Answer:
        if self._ended is None:
            raise RequestError("chat: the stream ended without [DONE]")
        if not self._times:
            raise RequestError("chat: the answer has no content")
        knowledge = self._knowledge
        facts = [MountedReport(f["id"], f["version"], f["score"], f["page"]) for f in knowledge.get("facts", [])]
        return Answer(
            "".join(self._text),
            tuple(self._times),
            int(self._usage.get("completion_tokens", len(self._times))),
            int(self._usage.get("prompt_tokens", 0)),
            knowledge.get("version"),
            knowledge.get("retrieval_ms"),
            tuple(facts),
            self._ended,
        )


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _refusal(what: str, response: httpx.Response) -> RequestError:
    """Of an error response that has been read."""
    message = f"{what}: {response.status_code} {_reason(response.text)}"
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return Refused(message, response.headers.get("retry-after"))
    return RequestError(message)


def _reason(text: str) -> str:
    """The message of an OpenAI error object, or the start of whatever came instead."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]


@asynccontextmanager
async def connect(target: Target, *, connections: int = 1, timeout_s: float = 60.0) -> AsyncIterator[ServerClient]:
    """A client with its own connections; asks the server which model it serves. Raises RequestError."""
    # Servers close idle connections after 5 s, some of them; at that very moment a request would be lost.
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
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
    """Write all facts in batches; the version after the last one."""
    version = 0
    for start in range(0, len(facts), IMPORT_BATCH):
        edit = await client.put_facts(facts[start : start + IMPORT_BATCH], namespace, expires_at)
        version = edit.version
    return version
