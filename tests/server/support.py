"""A whole service on the tiny model: real store, real encoder, real engine, real routes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from kan.checkpoint.directory import Checkpoint
from kan.prompt import PromptBuilder
from kb.encoder.protocol import Encoder
from kb.facts import Limits
from kb.log.location import Location
from kb.store import Store
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.paged.options import EngineOptions
from server.http.app import create_app
from server.http.keys import Keys
from server.service.embedding import PackagedTokenizer
from server.service.response_store import Bounds, ResponseStore
from server.services import Context, Services
from server.settings import Settings

MODEL = "tiny"
STORED = Bounds(count=100, bytes=2**20, seconds=3600)
FACTS = {
    "ceo": "The chief executive of Zorvex is Mara Lindqvist.",
    "tram": "The last tram to the harbour leaves at 23:40.",
    "ferry": "A ferry ticket costs 4 crowns.",
}
QUESTION = "Who is the chief executive of Zorvex?"


@dataclass(frozen=True)
class Service:
    """An app and the client of it."""

    app: FastAPI
    http: httpx.AsyncClient
    engine: EmbeddedEngine
    store: Store

    @property
    def context(self) -> Context:
        context: Context = self.app.state.context
        return context

    @property
    def version(self) -> int:
        return self.store.snapshot.version

    async def put(self, **facts: str) -> dict[str, Any]:
        body = {"facts": [{"id": id, "text": text} for id, text in facts.items()]}
        response = await self.http.put("/admin/kb/facts", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def chat(self, content: str = QUESTION, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=chat_body(content, **fields))


def chat_body(content: str = QUESTION, **fields: Any) -> dict[str, Any]:
    defaults = {"model": MODEL, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    return {**defaults, "messages": [{"role": "user", "content": content}], **fields}


def build_services(
    directory: Path,
    checkpoint: Checkpoint,
    encoder: Encoder,
    keys: Keys | None = None,
    knowledge_url: str | None = None,
    **options: Any,
) -> Services:
    prompt = PromptBuilder.from_checkpoint(checkpoint)
    options = {"dtype": "float32", "pages": 512, "max_running": 8, "page_dir": directory / "pages", **options}
    return Services(
        engine=EmbeddedEngine.start(checkpoint, prompt, EngineOptions(**options), None),
        store=Store.open(knowledge_url or directory / "kb", encoder, limits=Limits(batch_changes=512)),
        encoder=encoder,
        encoder_tokenizer=PackagedTokenizer(),
        prompt=prompt,
        model_name=MODEL,
        keys=keys or Keys(),
        responses=ResponseStore(Location.of(directory / "kb"), STORED),
    )


@asynccontextmanager
async def running(services: Services, base_url: str = "http://localhost", **settings: Any) -> AsyncIterator[Service]:
    app = create_app(Settings(**settings), services)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=base_url) as http:
        assert isinstance(services.engine, EmbeddedEngine)
        yield Service(app, http, services.engine, services.store)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once it is true; AssertionError if that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def events(response: httpx.Response) -> list[Any]:
    """Payloads of a stream of events; the last one must be [DONE] unless it is an error."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith(("data: ", ": ")) for line in lines)
    payloads = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
    if payloads[-1] == "[DONE]":
        return [json.loads(payload) for payload in payloads[:-1]]
    last = json.loads(payloads[-1])
    assert "error" in last, "a stream must end with [DONE] or an error"
    return [json.loads(payload) for payload in payloads]


def error(response: httpx.Response) -> dict[str, Any]:
    """The error object, whose shape is checked."""
    body = response.json()["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert isinstance(body["message"], str)
    return dict(body)
