"""A stream that has nothing to say yet says that it is alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from openai import OpenAI

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import GenerationRequest, SamplingParams
from server.http.streaming import DONE, PATIENCE_S, EventStream
from server.service.errors import Overloaded
from tests.server.live import Live, listening
from tests.server.support import MODEL, build_services, chat_body

KEEP_ALIVE_S = 0.1
LATE_S = PATIENCE_S + 3.5 * KEEP_ALIVE_S
SCOPE = {"type": "http", "method": "POST", "kalmagrove.request_id": "r-1"}


async def late(closed: asyncio.Event | None = None, error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    try:
        await asyncio.sleep(LATE_S)
        if error is not None:
            raise error
        yield b"data: {}\n\n"
        yield DONE
    finally:
        if closed is not None:
            closed.set()


async def sent(stream: Any) -> bytes:
    parts: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        parts.append(message)

    await stream(dict(SCOPE), asyncio.Event().wait, send)
    return b"".join(part.get("body", b"") for part in parts)


async def test_headers_and_comments_come_before_a_late_first_part() -> None:
    body = await sent(await EventStream.start(late(), KEEP_ALIVE_S))
    comments, _, data = body.partition(b"data: {}")
    assert comments.count(EventStream.comment) * len(EventStream.comment) == len(comments) > len(EventStream.comment)
    assert data == b"\n\n" + DONE


async def test_an_early_error_is_an_ordinary_response_and_a_late_one_an_event() -> None:
    async def refused() -> AsyncGenerator[bytes, None]:
        raise Overloaded("full")
        yield b""

    with pytest.raises(Overloaded):
        await EventStream.start(refused(), KEEP_ALIVE_S)
    body = await sent(await EventStream.start(late(error=Overloaded("full")), KEEP_ALIVE_S))
    assert body.startswith(EventStream.comment)
    assert b"server_overloaded" in body.split(b"\n\n")[-2]
    assert DONE not in body


@pytest.mark.parametrize("seconds", [0.2, LATE_S - KEEP_ALIVE_S], ids=["before its headers", "after them"])
async def test_who_leaves_meanwhile_ends_the_work(seconds: float) -> None:
    async def serve() -> None:
        await sent(await EventStream.start(late(closed), KEEP_ALIVE_S))

    closed = asyncio.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(serve(), seconds)
    assert closed.is_set()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    """One sequence at a time, and comments as often as can be."""
    services = build_services(tmp_path_factory.mktemp("silence"), tiny, encoder, max_running=1)
    with listening(services, max_running=1, max_waiting=64, stream_keep_alive_s=0.02) as live:
        yield live
        live.until_idle()


def test_clients_skip_comments(busy: Live) -> None:
    """OpenAI's own client, and what it reads."""

    async def occupy() -> list[Any]:
        sampling = SamplingParams(max_tokens=900, ignore_eos=True)
        return [engine.generate(GenerationRequest(f"busy-{i}", (1,), sampling=sampling)) for i in range(40)]

    async def release() -> None:
        for stream in occupied:
            await stream.aclose()

    engine = busy.context.services.engine
    occupied = busy.inside(occupy)
    with httpx.stream("POST", f"{busy.url}/v1/chat/completions", json=chat_body(stream=True), timeout=30) as raw:
        assert next(raw.iter_lines()) == ": keep-alive"
    with OpenAI(base_url=f"{busy.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        stream = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3, stream=True)
        busy.inside(release)
        assert list(stream)[-1].choices[0].finish_reason is not None
