"""CORS, for web pages of other addresses that the settings name. Never for /admin, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.doors import is_admin

EXPOSED_HEADERS = ("X-Request-Id", "Retry-After")
MAX_AGE_S = 600
"""How long a browser need not ask again."""


class AllowOrigins:
    """ASGI middleware that answers preflights, which carry no key, and lets pages of the origins read the answers."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self._shared = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        closed = scope["type"] == "http" and is_admin(scope["path"])
        await (self.app if closed else self._shared)(scope, receive, send)
