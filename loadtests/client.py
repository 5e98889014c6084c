"""The server as a client sees it: the few calls that the scenarios need, with clocks on the streaming one."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

IMPORT_BATCH = 64
"""Facts per PUT when a scenario loads its knowledge."""


class RequestError(Exception):
    """The server refused a request, broke off a stream or answered with something that is no answer."""


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
    prompt_tokens: int
    knowledge_version: int | None
    retrieval_ms: float | None
    facts: tuple[MountedReport, ...]

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


class ServerClient:
    """One HTTP client (one pool of connections) of a server. Every call raises RequestError."""

    def __init__(self, http: httpx.AsyncClient, target: Target, model: str) -> None:
        self._http = http
        self._target = target
        self.model = model

    async def json(
        self, method: str, path: str, *, body: object = None, params: Mapping[str, str] | None = None
    ) -> Any:
        key = self._target.admin_key if path.startswith("/admin") else self._target.client_key
        try:
            response = await self._http.request(method, path, json=body, params=params, headers=_bearer(key))
        except httpx.HTTPError as error:
            raise RequestError(f"{method} {path}: {type(error).__name__} {error}") from error
        if response.is_error:
            raise RequestError(f"{method} {path}: {response.status_code} {_reason(response.text)}")
        return response.json()

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

    async def count_tokens(self, text: str) -> int:
        reply = await self.json("POST", "/tokenize", body={"model": self.model, "prompt": text})
        return int(reply["count"])

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        knowledge: Mapping[str, object],
        max_tokens: int,
        *,
        to_the_end: bool = False,
        on_content: Callable[[], None] | None = None,
    ) -> Answer:
        """Stream one chat completion, greedily. `to_the_end`: exactly max_tokens, whatever the model says.

        `on_content` is called at every piece of content.
        """
        body = {
            "model": self.model,
            "messages": list(messages),
            "knowledge": dict(knowledge),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if to_the_end else {}),
        }
        collector = _Collector(time.perf_counter(), on_content)
        try:
            async with self._http.stream(
                "POST", "/v1/chat/completions", json=body, headers=_bearer(self._target.client_key)
            ) as response:
                if response.is_error:
                    text = (await response.aread()).decode("utf-8", "replace")
                    raise RequestError(f"chat: {response.status_code} {_reason(text)}")
                async for line in response.aiter_lines():
                    collector.take(line)
        except httpx.HTTPError as error:
            raise RequestError(f"chat: {type(error).__name__} {error}") from error
        return collector.answer()


class _Collector:
    """Reads server-sent events one line at a time."""

    def __init__(self, started: float, on_content: Callable[[], None] | None) -> None:
        self._started = started
        self._on_content = on_content
        self._text: list[str] = []
        self._times: list[float] = []
        self._usage: dict[str, Any] = {}
        self._knowledge: dict[str, Any] = {}
        self._done = False

    def take(self, line: str) -> None:
        if not line.startswith("data:"):
            return
        now = time.perf_counter() - self._started
        payload = line[len("data:") :].strip()
        if payload == "[DONE]":
            self._done = True
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
        if not self._done:
            raise RequestError("chat: the stream ended without [DONE]")
        if not self._times:
            raise RequestError("chat: the answer has no content")
        knowledge = self._knowledge
        facts = [MountedReport(f["id"], f["version"], f["score"], f["page"]) for f in knowledge.get("facts", [])]
        return Answer(
            "".join(self._text),
            tuple(self._times),
            int(self._usage["completion_tokens"]),
            int(self._usage["prompt_tokens"]),
            knowledge.get("version"),
            knowledge.get("retrieval_ms"),
            tuple(facts),
        )


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _reason(text: str) -> str:
    """The message of an OpenAI error object, or the start of whatever came instead."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]


@asynccontextmanager
async def connect(target: Target, *, connections: int = 1, timeout_s: float = 60.0) -> AsyncIterator[ServerClient]:
    """A client with its own connections; asks the server which model it serves. Raises RequestError."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(base_url=target.url, limits=limits, timeout=timeout_s, trust_env=False) as http:
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
