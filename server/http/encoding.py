"""Bodies that come compressed, unpacked within the bounds that hold for plain ones."""

from __future__ import annotations

import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import ApiError, body_too_large, invalid
from server.http.limits import body_bounds
from server.http.scope import note_refusal
from server.settings import Settings

PART_BYTES = 2**18
"""Unpacked at a time: a byte may become a thousand."""
_GZIP = 16 + zlib.MAX_WBITS


class DecodeBody:
    """ASGI middleware: gzip is unpacked, other encodings get 415. Who is behind it sees a plain body."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        coding = _coding(scope) if scope["type"] == "http" else "identity"
        if coding == "identity":
            await self.app(scope, receive, send)
        elif coding == "gzip":
            limit = body_bounds(self._settings, scope["path"]).bytes
            plain = {**scope, "headers": _without_coding(scope)}
            await self.app(plain, _Unpacked(receive, limit).receive, send)
        else:
            error = ApiError(
                415,
                "The body's Content-Encoding must be gzip, or none.",
                type="invalid_request_error",
                code="unsupported_encoding",
                headers={"Accept-Encoding": "gzip"},
            )
            note_refusal(scope, error.code)
            await error.response()(scope, receive, send)


class _Unpacked:
    """One body, part by part."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._unpacking = zlib.decompressobj(_GZIP)
        self._packed = b""
        self._more_comes = True
        self._seen = 0
        self._complete = False

    async def receive(self) -> Message:
        """ASGI's receive. Raises ApiError for what is no gzip, or too much of it."""
        if self._complete:
            return await self._receive()
        while not self._packed and self._more_comes:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._packed, self._more_comes = message.get("body", b""), message.get("more_body", False)
        part = self._unpack()
        self._seen += len(part)
        if self._seen > self._limit:
            raise body_too_large(self._limit)
        self._complete = not self._packed and not self._more_comes and len(part) < PART_BYTES
        if self._complete and not self._unpacking.eof:
            raise _damaged()
        return {"type": "http.request", "body": part, "more_body": not self._complete}

    def _unpack(self) -> bytes:
        if self._unpacking.eof and self._packed:  # gzip may have several members, one behind the other
            self._unpacking = zlib.decompressobj(_GZIP)
        try:
            part = self._unpacking.decompress(self._packed, PART_BYTES)
        except zlib.error as error:
            raise _damaged() from error
        self._packed = self._unpacking.unconsumed_tail or self._unpacking.unused_data
        return part


def _damaged() -> ApiError:
    return invalid("The body is not gzip, as its Content-Encoding says.", code="invalid_encoding")


def _coding(scope: Scope) -> str:
    codings = b",".join(value for name, value in scope["headers"] if name == b"content-encoding")
    coding = codings.decode("latin-1").strip().lower()
    return {"": "identity", "x-gzip": "gzip"}.get(coding, coding)


def _without_coding(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [header for header in scope["headers"] if header[0] not in (b"content-encoding", b"content-length")]
