"""Bounds on what a client may send and on how much may be in progress at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import ApiError, overloaded, too_large

IMPORT_PATH = "/admin/kb/import"


class Gate:
    """At most `capacity` holders; the next one is refused, not queued."""

    def __init__(self, capacity: int, what: str) -> None:
        self.capacity = capacity
        self.held = 0
        self._what = what

    @contextmanager
    def enter(self, weight: int = 1) -> Iterator[None]:
        """Hold `weight` places. Raises ApiError (429) if they are not free."""
        if self.held + weight > self.capacity:
            raise overloaded(f"Too many {self._what} at once. Try again shortly.")
        self.held += weight
        try:
            yield
        finally:
            self.held -= weight


class LimitBody:
    """ASGI middleware: bodies over their bound get 413, bodies that stop coming get 408."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_import_bytes: int, idle_timeout_s: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._max_import_bytes = max_import_bytes
        self._idle_timeout_s = idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._max_import_bytes if scope["path"] == IMPORT_PATH else self._max_bytes
        declared = _content_length(scope)
        if declared is not None and declared > limit:
            error = _over(limit)
            scope["kalmagrove.refusal"] = error.code
            await error.response()(scope, receive, send)
            return
        await self.app(scope, self._counted(receive, limit), send)

    def _counted(self, receive: Receive, limit: int) -> Receive:
        seen = 0
        complete = False

        async def counted() -> Message:
            nonlocal seen, complete
            if complete:  # only the disconnect is left to come, whenever that is
                return await receive()
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    message = await receive()
            except TimeoutError:
                raise _stalled(self._idle_timeout_s) from None
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > limit:
                raise _over(limit)
            return message

        return counted


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return None


def _over(limit: int) -> ApiError:
    return too_large(f"The body is over {limit} bytes.")


def _stalled(seconds: float) -> ApiError:
    return ApiError(
        408,
        f"No part of the body came for {seconds:g} s.",
        type="invalid_request_error",
        code="body_timeout",
        headers={"Connection": "close"},
    )
