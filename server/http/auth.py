"""Who may call what. Every path needs a key unless it is listed as open, so a new route is closed by default."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.errors import ApiError, forbidden, unauthenticated
from server.settings import is_loopback

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Probes, which carry no secrets."""
SHARED_PATHS = frozenset({"/metrics"})
"""Either kind of key will do."""
_NAME = "[A-Za-z0-9._-]{1,64}"
_LINE = re.compile(f"(?P<name>{_NAME}):(?P<digest>[0-9a-fA-F]{{64}})")


class KeyFileError(Exception):
    """A key file that cannot be used; the message names file and line, never a key."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Names and SHA-256 digests of the keys of one role. Keys are random strings, so a plain hash will do."""

    digests: tuple[tuple[str, bytes], ...]

    @classmethod
    def read(cls, path: Path) -> KeyRing:
        """One `name:sha256-hex` per line; blank lines and lines starting with # are skipped."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{path}: cannot be read ({type(error).__name__})") from error
        digests = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise KeyFileError(f"{path}, line {number}: expected name:sha256-hex")
            digests.append((match["name"], bytes.fromhex(match["digest"])))
        if not digests:
            raise KeyFileError(f"{path}: holds no key")
        return cls(tuple(digests))

    def find(self, key: str) -> str | None:
        """Name of the key's owner. Takes the same time wherever the key stands, and if it is unknown."""
        digest = hash_key(key)
        found = None
        for name, known in self.digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def hash_key(key: str) -> bytes:
    """What is kept of a key: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def valid_name(name: str) -> bool:
    """Whether a key file may use this name for a key's owner."""
    return re.fullmatch(_NAME, name) is not None


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys per role. `open()` is True if none are configured: then everybody on this machine may do everything."""

    client: KeyRing | None = None
    admin: KeyRing | None = None

    @classmethod
    def read(cls, client_file: Path | None, admin_file: Path | None) -> Keys:
        """Raises KeyFileError."""
        return cls(
            KeyRing.read(client_file) if client_file else None,
            KeyRing.read(admin_file) if admin_file else None,
        )

    def open(self) -> bool:
        """True if no keys are configured."""
        return self.client is None and self.admin is None


class Authenticate:
    """ASGI middleware that lets a request through, or answers 401 or 403."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                scope["kalmagrove.caller"] = self._caller(scope["path"], Headers(scope=scope))
            except ApiError as error:
                scope["kalmagrove.refusal"] = error.code
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _caller(self, path: str, headers: Headers) -> str:
        if self._keys.open():
            _require_local(headers)
            return "local"
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthenticated("Give a key: Authorization: Bearer …")
        client, admin = _find(self._keys.client, key.strip()), _find(self._keys.admin, key.strip())
        if client is None and admin is None:
            raise unauthenticated("The key is not known.")
        if path in SHARED_PATHS:
            return client or admin or ""
        wanted = admin if _is_admin(path) else client
        if wanted is None:
            role = "an admin" if _is_admin(path) else "a client"
            raise forbidden(f"This endpoint needs {role} key.")
        return wanted


def _find(ring: KeyRing | None, key: str) -> str | None:
    return None if ring is None else ring.find(key)


def _is_admin(path: str) -> bool:
    return path.strip("/").partition("/")[0] == "admin"


def _require_local(headers: Headers) -> None:
    """Without keys a web page must not be able to reach us through a name that it lets point here, or cross-site."""
    origin = headers.get("origin")
    if not _is_local(f"//{headers.get('host', '')}") or (origin is not None and not _is_local(origin)):
        raise forbidden("Without configured keys only http://localhost may be used.")


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:  # no URL at all
        return False
