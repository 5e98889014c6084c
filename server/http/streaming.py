"""Responses that are sent while they are made: server-sent events to OpenAI's letter, and NDJSON.

The status line waits for the first part, so whatever goes wrong before it is an ordinary error response. A stream of
events waits no longer than a second: then it begins with its headers, and comments, which clients skip, until there is
something to say. What goes wrong later is an error event (or line), and the stream ends without its mark of success.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.http.translation import refuse

DONE = b"data: [DONE]\n\n"
PATIENCE_S = 1.0
"""How long a stream of events waits for its first part before it begins without."""


def event(payload: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def named_event(payload: Mapping[str, Any]) -> bytes:
    """One server-sent event that has its type as a name as well."""
    return b"event: " + str(payload["type"]).encode() + b"\n" + event(payload)


def line(payload: Mapping[str, Any]) -> bytes:
    """One line of NDJSON."""
    return orjson.dumps(payload, option=orjson.OPT_APPEND_NEWLINE)


class Stream(Response):
    """Sends what a generator yields, and closes the generator whatever happens."""

    patience_s: float | None = None
    """How long the status line waits for the first part; None: as long as it takes."""
    comment = b""
    """What breaks a silence and means nothing."""

    def __init__(
        self,
        first: asyncio.Task[bytes],
        parts: AsyncGenerator[bytes, None],
        keep_alive_s: float | None,
        failure: Callable[[Mapping[str, Any]], bytes] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._parts = parts
        self._keep_alive_s = keep_alive_s
        self._failure = failure
        self._last_sent = time.monotonic()

    @classmethod
    async def start(
        cls,
        parts: AsyncGenerator[bytes, None],
        keep_alive_s: float | None = None,
        failure: Callable[[Mapping[str, Any]], bytes] | None = None,
    ) -> Stream:
        """Waits for the first part as long as patience lasts. Raises what the generator raises until then.

        `failure`: how an error object is written in mid-stream; None: as a plain stream of its kind has it.
        """
        first = asyncio.create_task(_first(parts))
        try:
            await asyncio.wait({first}, timeout=cls.patience_s)
            if first.done():
                first.result()
        except BaseException:
            await _drop(first, parts)
            raise
        return cls(first, parts, keep_alive_s, failure)

    def failure(self, body: Mapping[str, Any]) -> bytes:
        """How an error object is written in mid-stream."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                await self._send_parts(scope, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await _drop(self._first, self._parts)

    async def _send_parts(self, scope: Scope, send: Send) -> None:
        beating = asyncio.create_task(self._break_silence(send))
        try:
            await self._write(send, await self._first)
            async for part in self._parts:
                await self._write(send, part)
        except Exception as error:
            await self._write(send, (self._failure or self.failure)(refuse(scope, error).body))
        finally:
            beating.cancel()

    async def _break_silence(self, send: Send) -> None:
        """Beside the parts rather than between them, so that a part costs nothing more."""
        while self._keep_alive_s is not None:
            left = self._last_sent + self._keep_alive_s - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
                continue
            await self._write(send, self.comment)

    async def _write(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._last_sent = time.monotonic()


class EventStream(Stream):
    """Server-sent events."""

    media_type = "text/event-stream"
    patience_s = PATIENCE_S
    comment = b": keep-alive\n\n"

    def failure(self, body: Mapping[str, Any]) -> bytes:
        return event(body)


class LineStream(Stream):
    """NDJSON."""

    media_type = "application/x-ndjson"

    def failure(self, body: Mapping[str, Any]) -> bytes:
        return line(body)


async def _first(parts: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(parts, b"")


async def _drop(first: asyncio.Task[bytes], parts: AsyncGenerator[bytes, None]) -> None:
    """End the generator, wherever it is."""
    first.cancel()
    await asyncio.wait({first})
    await parts.aclose()
