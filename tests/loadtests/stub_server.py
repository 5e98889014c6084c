"""A server with the API's shapes and no model, so that the scenarios can be run in seconds.

Knows nothing: mounts the newest facts of a namespace (`finds`: those that share most words with the question) and
answers with fixed words. `lag` makes it a bad server, which
answers from the version before the newest. `places` bounds the requests it holds, and the other attributes say how it
goes wrong there. `plain` makes it a server that knows nothing of knowledge, and refuses the field.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import uvicorn
from tests.loadtests.stub_server import Stub
stub = Stub(plain=True, usage=False)
port = int(sys.argv[sys.argv.index("--port") + 1])
uvicorn.run(stub.app(), port=port, log_level="error", ws="none", lifespan="off")
"""
"""A program that serves the stub at the port it is given; /health tells how it was called."""


@dataclass
class Stub:
    """The state, and the ways to misbehave."""

    lag: bool = False
    break_stream: float = 0
    """How many streams are broken off; infinity: all."""
    refuse: bool = False
    places: int | None = None
    token_seconds: float = 0.001
    retry_after: bool = True
    leak: bool = False
    """Whoever leaves an answer unread is held for ever."""
    finds: bool = False
    plain: bool = False
    parrot: bool = False
    """Answers with the words of the facts it has, mounted or in the prompt."""
    usage: bool = True
    prompt_tokens: int = 30
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of completions, in the order in which they came."""
    pages_made: float = 0.0
    pages_rise: float = 1.0
    version: int = 0
    requests: int = 0
    running: int = 0
    keys_seen: set[tuple[str, str | None]] = field(default_factory=set)
    facts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "stub"}]})

    async def health(self, request: Request) -> Response:
        """How this process was called."""
        settings = sorted(name for name in os.environ if name.startswith("KALMAGROVE_"))
        health = os.environ.get("STAND_IN_HEALTH")
        return JSONResponse({"health": health, "arguments": sys.argv[1:], "settings": settings})

    async def tokenize(self, request: Request) -> Response:
        return JSONResponse({"count": len((await request.json())["prompt"].split())})

    async def put(self, request: Request) -> Response:
        self._note(request)
        self.version += 1
        body = await request.json()
        for fact in body["facts"]:
            held = self.facts.setdefault(fact["namespace"], {})
            held.pop(fact["id"], None)
            held[fact["id"]] = {**fact, "version": self.version}
        return JSONResponse({"version": self.version, "upserted": len(body["facts"]), "visible_ms": 1.5})

    async def get(self, request: Request) -> Response:
        namespace = self.facts.get(request.query_params["namespace"], {})
        fact = namespace[request.path_params["id"]]
        return JSONResponse({**fact, "page": _page(fact["text"])})

    async def made(self, request: Request) -> Response:
        """Pages come while they are looked for."""
        self.pages_made = min(1.0, self.pages_made + self.pages_rise)
        return JSONResponse({"version": self.version, "pages_made": self.pages_made})

    async def search(self, request: Request) -> Response:
        body = await request.json()
        hits = [{"fact": fact, "score": 0.5} for fact in self._found(body, body["query"])]
        return JSONResponse({"version": self.version - self.lag, "hits": hits})

    async def chat(self, request: Request) -> Response:
        self._note(request)
        self.requests += 1
        body = await request.json()
        self.bodies.append(body)
        if self.plain and "knowledge" in body:
            return JSONResponse({"error": {"message": "knowledge: unknown field"}}, 400)
        if self.refuse or self.running == self.places:
            error = {"message": "the queue is full", "type": "rate_limit_error", "code": "server_overloaded"}
            return JSONResponse({"error": error}, 429, {"Retry-After": "1"} if self.retry_after else {})
        if not body.get("stream"):
            await asyncio.sleep(self.token_seconds * body["max_tokens"])
            return JSONResponse({"choices": [{"index": 0, "message": {"content": "whole"}}]})
        self.running += 1
        return StreamingResponse(self._held(body), media_type="text/event-stream")

    async def _held(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        whole = False
        try:
            async for event in self._stream(body):
                yield event
            whole = True
        finally:
            self.running -= whole or not self.leak

    async def metrics(self, request: Request) -> Response:
        self._note(request)
        held = 100 * self.running
        gauges = {
            "kalmagrove_process_resident_memory_bytes": 1e9,
            "kalmagrove_process_open_fds": 20 + self.running,
            "kalmagrove_requests_running": self.running,
            "kalmagrove_requests_waiting": 0,
            'kalmagrove_pages{use="context"}': held,
            'kalmagrove_pages{use="knowledge"}': 50,
            'kalmagrove_pages{use="free"}': 10_000 - held,
        }
        text = "".join(f"# TYPE {name.partition('{')[0]} gauge\n{name} {value}\n" for name, value in gauges.items())
        return Response(text, media_type="text/plain")

    def _found(self, asked: dict[str, Any], question: str) -> list[dict[str, Any]]:
        """Best last."""
        held = list(self.facts.get(asked["namespace"], {}).values())
        if self.finds:
            words = set(re.findall(r"\w+", question))
            held.sort(key=lambda fact: len(words & set(re.findall(r"\w+", fact["text"]))))
        return held[-asked.get("top_k", 8) :]

    def _mounted(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        asked = body.get("knowledge", {"enabled": False})
        return [] if asked.get("enabled") is False else self._found(asked, body["messages"][-1]["content"])

    def _knowledge(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if body.get("knowledge", {"enabled": False}).get("enabled") is False:
            return None
        held = self._mounted(body)
        back = 1 if self.lag else 0
        facts = [
            {"id": f["id"], "version": f["version"] - back, "score": 0.5, "attention": 0.1, "page": _page(f["text"])}
            for f in held
        ]
        return {"version": self.version - back, "retrieval_ms": 0.7, "facts": facts}

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        def event(choices: list[Any], **fields: Any) -> bytes:
            return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"

        yield event([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])
        for number, word in enumerate(self._words(body)):
            await asyncio.sleep(self.token_seconds)
            if self.break_stream > 0 and number == 2:
                self.break_stream -= 1
                yield b'data: {"error": {"message": "the engine died"}}\n\n'
                return
            yield event([{"index": 0, "delta": {"content": f" {word}"}, "finish_reason": None}])
        last = [{"index": 0, "delta": {}, "finish_reason": "length"}]
        knowledge = self._knowledge(body)
        yield event(last, **({"knowledge": knowledge} if knowledge else {}))
        if self.usage:
            yield event([], usage={"prompt_tokens": self.prompt_tokens, "completion_tokens": body["max_tokens"]})
        yield b"data: [DONE]\n\n"

    def _words(self, body: dict[str, Any]) -> list[str]:
        """As many as were asked for; the last one is everything the parrot has left to say."""
        words = [f"w{number}" for number in range(body["max_tokens"])]
        if self.parrot:
            texts = [fact["text"] for fact in self._mounted(body)]
            words[-1] = " ".join([*texts, *(message["content"] for message in body["messages"])])
        return words

    def _note(self, request: Request) -> None:
        self.keys_seen.add((request.url.path, request.headers.get("authorization")))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/health", self.health),
                Route("/tokenize", self.tokenize, methods=["POST"]),
                Route("/admin/kb/facts", self.put, methods=["PUT"]),
                Route("/admin/kb/facts/{id}", self.get),
                Route("/admin/kb/version", self.made),
                Route("/admin/kb/search", self.search, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/metrics", self.metrics),
            ]
        )


def _page(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def running(stub: Stub) -> Iterator[str]:
    """Serve the stub on a free port of its own thread; the URL."""
    config = uvicorn.Config(stub.app(), port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline, "the stub did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def quiet(what: str, done: int, total: int) -> None:
    """A scenario's progress, shown to nobody."""
    assert 0 <= done <= total
