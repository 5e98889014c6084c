"""What is served at which address. Either one listener serves everything, or `/admin` and `/metrics` have their own."""

from __future__ import annotations

from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.errors import not_found
from server.http.scope import note_refusal

Door = Literal["whole", "public", "admin"]
"""What a listener serves: everything, all but what operators call, or that only."""
METRICS_PATH = "/metrics"
COMMON_PATHS = frozenset({"/health", "/ready", "/openapi.json"})
"""At either door."""


def is_admin(path: str) -> bool:
    """Whether the path is one that edits or reads the knowledge itself."""
    return path.strip("/").partition("/")[0] == "admin"


def opens(door: Door, path: str) -> bool:
    """Whether the path may be asked for at this door at all."""
    if door == "whole" or path in COMMON_PATHS:
        return True
    return (is_admin(path) or path == METRICS_PATH) == (door == "admin")


class Elsewhere:
    """ASGI middleware: 404 for what another listener serves, whatever key comes with it."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or opens(self._door, scope["path"]):
            await self.app(scope, receive, send)
            return
        error = not_found("There is no such endpoint at this address.")
        note_refusal(scope, error.code)
        await error.response()(scope, receive, send)
