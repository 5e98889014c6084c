"""Responses that are sent while they are made: server-sent events to OpenAI's letter, and NDJSON.

The status line waits for the first part, so whatever goes wrong before it is an ordinary error response. What goes
wrong later is an error event (or line), and the stream ends without its mark of success.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.http.errors import from_exception

DONE = b"data: [DONE]\n\n"
logger = logging.getLogger("kalmagrove.streaming")


def event(payload: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def line(payload: Mapping[str, Any]) -> bytes:
    """One line of NDJSON."""
    return orjson.dumps(payload, option=orjson.OPT_APPEND_NEWLINE)


class Stream(Response):
    """Sends what a generator yields, and closes the generator whatever happens."""

    def __init__(self, first: bytes, parts: AsyncGenerator[bytes, None], send_timeout_s: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._parts = parts
        self._send_timeout_s = send_timeout_s

    @classmethod
    async def start(cls, parts: AsyncGenerator[bytes, None], send_timeout_s: float) -> Stream:
        """Waits for the first part. Raises what the generator raises."""
        return cls(await anext(parts, b""), parts, send_timeout_s)

    def failure(self, body: Mapping[str, Any]) -> bytes:
        """How an error object is written in mid-stream."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._write(send, self._first)
            try:
                async for part in self._parts:
                    await self._write(send, part)
            except _StalledError:
                raise
            except Exception as error:
                await self._write(send, self._told(scope, error))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except _StalledError:
            logger.warning("a client left its stream unread for %g s and was dropped", self._send_timeout_s)
        finally:
            await self._parts.aclose()

    async def _write(self, send: Send, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            raise _StalledError from None

    def _told(self, scope: Scope, error: Exception) -> bytes:
        translated = from_exception(error)
        if translated.status_code == 500:
            logger.error("a stream failed", exc_info=error)
        scope["kalmagrove.refusal"] = translated.code
        return self.failure(translated.body)


class EventStream(Stream):
    """Server-sent events."""

    media_type = "text/event-stream"

    def failure(self, body: Mapping[str, Any]) -> bytes:
        return event(body)


class LineStream(Stream):
    """NDJSON."""

    media_type = "application/x-ndjson"

    def failure(self, body: Mapping[str, Any]) -> bytes:
        return line(body)


class _StalledError(Exception):
    """The client does not read."""
