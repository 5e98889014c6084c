"""Who may call what. Every path needs a key unless it is listed as open, so a new route is closed by default."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.doors import METRICS_PATH, is_admin
from server.http.errors import ApiError, forbidden, unauthenticated
from server.http.key_line import Owner
from server.http.keys import Keys
from server.http.scope import note_refusal
from server.settings import is_loopback

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Probes, which carry no secrets."""
OPEN_FOLDER = "/console"
"""The page that asks for keys, and its files; nothing else is below."""
SHARED_PATHS = frozenset({METRICS_PATH})
"""Either kind of key will do."""


class Authenticate:
    """ASGI middleware that lets a request through, or answers 401 or 403."""

    def __init__(self, app: ASGIApp, keys: Keys, origins: Sequence[str] = ()) -> None:
        """`origins`: of web pages that may come without keys where none are configured, but not to /admin."""
        self.app = app
        self._keys = keys
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            try:
                owner = self._owner(scope["path"], Headers(scope=scope))
                scope["kalmagrove.caller"], scope["kalmagrove.access"] = owner.name, owner.access
            except ApiError as error:
                note_refusal(scope, error.code)
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _owner(self, path: str, headers: Headers) -> Owner:
        if self._keys.open():
            _require_local(headers, frozenset() if is_admin(path) else self._origins)
            return Owner("local")
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthenticated("Give a key: Authorization: Bearer …")
        client, admin = self._keys.find("client", key.strip()), self._keys.find("admin", key.strip())
        if client is None and admin is None:
            raise unauthenticated("The key is not known.")
        wanted = admin if is_admin(path) else client
        if path in SHARED_PATHS:
            wanted = _freer(client, admin)
        if wanted is None:
            role = "an admin" if is_admin(path) else "a client"
            raise forbidden(f"This endpoint needs {role} key.")
        return wanted


def _freer(one: Owner | None, other: Owner | None) -> Owner | None:
    """A key that is known in both roles may do what either lets it."""
    return other if one is None or (other is not None and other.access.whole) else one


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path == OPEN_FOLDER or path.startswith(f"{OPEN_FOLDER}/")


def _require_local(headers: Headers, origins: Collection[str]) -> None:
    """Without keys a web page must not be able to reach us through a name that it lets point here, or cross-site."""
    origin = headers.get("origin")
    if not _is_local(f"//{headers.get('host', '')}") or not (origin is None or origin in origins or _is_local(origin)):
        raise forbidden("Without configured keys only http://localhost may be used.")


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # no URL at all
        return False
