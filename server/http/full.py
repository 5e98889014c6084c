"""A full queue is told before the request is read: refusing must cost next to nothing, or hundreds of it stall all.

Who gets a place is still decided where places are given (`server/service/completions.py`). This only says "no" to those
who could not get one now, so that reading, checking and looking up their requests keeps nobody waiting.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.scope import note_route
from server.http.translation import refuse
from server.service.admission import Admission
from server.service.errors import Overloaded

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
"""Whose POST needs a place among the generations."""
MOST_UNREAD = 64 * 1024
"""Bytes of a body that are thrown away to keep the connection."""


class RefuseFull:
    """ASGI middleware, inside of authentication: 429 where the caller could not even wait."""

    def __init__(self, app: ASGIApp, generations: Admission) -> None:
        self.app = app
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING:
            try:
                self._generations.require_room(scope["kalmagrove.caller"])
            except Overloaded as full:
                await self._refuse(full, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _refuse(self, full: Overloaded, scope: Scope, receive: Receive, send: Send) -> None:
        note_route(scope, scope["path"])
        error = refuse(scope, full)
        if _unread(scope) > MOST_UNREAD:
            error.headers = {**(error.headers or {}), "Connection": "close"}
        await error.response()(scope, receive, send)


def _unread(scope: Scope) -> float:
    """Bytes that may still come; infinite if nobody knows."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length[:20]) if length.isdigit() else float("inf")
