"""Bounds on what a client may send and on how much may be in progress at once."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import body_late, body_too_large
from server.http.scope import note_refusal
from server.settings import Settings

IMPORT_PATH = "/admin/kb/import"


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """What one body may take."""

    bytes: int
    idle_s: float
    """Longest silence."""
    total_s: float
    """Longest wait for all of it; the time in which the server itself does not read does not count."""
    bytes_per_s: float
    """Every byte that came allows so much longer; infinite: none does."""


def body_bounds(settings: Settings, path: str) -> BodyBounds:
    """Of what is sent to the path."""
    idle_s, total_s = settings.body_idle_timeout_s, settings.body_timeout_s
    if path == IMPORT_PATH:
        return BodyBounds(settings.max_import_bytes, idle_s, total_s, settings.min_import_bytes_per_s)
    return BodyBounds(settings.max_body_bytes, idle_s, total_s, math.inf)


class LimitBody:
    """ASGI middleware: bodies over their bound get 413, those that stop coming or come too slowly get 408."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bounds = body_bounds(self._settings, scope["path"])
        declared = _content_length(scope)
        if declared is not None and declared > bounds.bytes:
            error = body_too_large(bounds.bytes)
            note_refusal(scope, error.code)
            await error.response()(scope, receive, send)
            return
        await self.app(scope, _Body(receive, bounds).receive, send)


class _Body:
    """Hands on the parts of one body, as long as they keep to the bounds."""

    def __init__(self, receive: Receive, bounds: BodyBounds) -> None:
        self._receive = receive
        self._bounds = bounds
        self._seen = 0
        self._waited = 0.0
        self._complete = False

    async def receive(self) -> Message:
        """ASGI's receive. Raises ApiError."""
        if self._complete:  # only the disconnect is left to come, whenever that is
            return await self._receive()
        message = await self._next()
        self._seen += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._seen > self._bounds.bytes:
            raise body_too_large(self._bounds.bytes)
        return message

    async def _next(self) -> Message:
        began = time.monotonic()
        left = self._bounds.total_s + self._seen / self._bounds.bytes_per_s - self._waited
        try:
            async with asyncio.timeout(min(self._bounds.idle_s, left)):
                return await self._receive()
        except TimeoutError:
            raise body_late() from None
        finally:
            self._waited += time.monotonic() - began


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return None
