"""A server with the API's shapes and no model, so that the scenarios can be run in seconds.

Knows nothing: mounts the newest facts of a namespace and answers with fixed words. `lag` makes it a bad server, which
answers from the version before the newest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class Stub:
    """The state, and the ways to misbehave."""

    lag: bool = False
    break_stream: bool = False
    refuse: bool = False
    version: int = 0
    requests: int = 0
    keys_seen: set[tuple[str, str | None]] = field(default_factory=set)
    facts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "stub"}]})

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

    async def chat(self, request: Request) -> Response:
        self._note(request)
        self.requests += 1
        if self.refuse:
            error = {"message": "the queue is full", "type": "rate_limit_error", "code": "server_overloaded"}
            return JSONResponse({"error": error}, 429)
        return StreamingResponse(self._stream(await request.json()), media_type="text/event-stream")

    def _knowledge(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        if asked.get("enabled") is False:
            return None
        held = list(self.facts.get(asked["namespace"], {}).values())[-asked["top_k"] :]
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
        for number in range(body["max_tokens"]):
            await asyncio.sleep(0.001)
            if self.break_stream and number == 2:
                yield b'data: {"error": {"message": "the engine died"}}\n\n'
                return
            yield event([{"index": 0, "delta": {"content": f" w{number}"}, "finish_reason": None}])
        last = [{"index": 0, "delta": {}, "finish_reason": "length"}]
        knowledge = self._knowledge(body["knowledge"])
        yield event(last, **({"knowledge": knowledge} if knowledge else {}))
        yield event([], usage={"prompt_tokens": 30, "completion_tokens": body["max_tokens"]})
        yield b"data: [DONE]\n\n"

    def _note(self, request: Request) -> None:
        self.keys_seen.add((request.url.path, request.headers.get("authorization")))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/tokenize", self.tokenize, methods=["POST"]),
                Route("/admin/kb/facts", self.put, methods=["PUT"]),
                Route("/admin/kb/facts/{id}", self.get),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
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
