"""HTTP/1.1 connections, bounded in what they may send, and how long they may take, before a request is there.

Uvicorn reads heads of any length, waits for them for ever, and counts idle connections like busy ones. A connection is
*idle* here from its beginning, and from the end of each answer, until the next request's head is complete.

One request at a time: what comes before the answer is complete is not kept, and the connection ends with that answer.
(Uvicorn would queue such requests without bound, and not notice that the client of the first one leaves.)
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import httptools
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.http.errors import ApiError, head_late, head_too_large, not_http
from server.settings import Settings

SPARE_CONNECTIONS = 64
"""Open ones above the busy ones allowed: probes and refusals get through to a server that is full."""
logger = logging.getLogger("kalmagrove.connections")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection may take before it has a request, and after its answer."""

    head_bytes: int
    """Request line and headers; also whatever else stands between two parts of a body, and trailers."""
    head_seconds: float
    """From the connection's beginning, or the first byte after an answer, to a complete head."""
    idle_seconds: float
    """From an answer to the first byte of the next request."""
    flush_seconds: float
    """For the client to read what was sent: before the connection is closed, or before there is more to send."""


class Connection(Protocol):
    """One that takes a place."""

    def drop(self) -> None:
        """Its place is needed."""
        ...


class ConnectionTable:
    """Every open connection, idle or busy. Idle ones make room for new ones, the longest idle first."""

    def __init__(self, max_busy: int) -> None:
        self._max_busy = max_busy
        self._busy: set[Connection] = set()
        self._idle: dict[Connection, None] = {}

    def rest(self, connection: Connection) -> None:
        """It is new, or its answer is complete."""
        self.forget(connection)
        self._idle[connection] = None
        if len(self._busy) + len(self._idle) > self._max_busy + SPARE_CONNECTIONS:
            longest = next(iter(self._idle))
            self.forget(longest)
            longest.drop()

    def work(self, connection: Connection) -> bool:
        """It has a request. False if more are busy than may be."""
        self.forget(connection)
        self._busy.add(connection)
        return len(self._busy) <= self._max_busy

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A request that comes while too many are busy finds `crowded` in its scope's state."""

    def __init__(self, bounds: Bounds, table: ConnectionTable, refusals: Counter, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._refusals = refusals
        self.bounds = bounds
        self.table = table
        self._room = bounds.head_bytes
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._resting = False
        """Nothing has come since the last answer."""
        self._last = False
        """The request under way is the last: something came behind it."""
        self._offered = False
        """The head that is being read offers another protocol."""

    def drop(self) -> None:
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rest(self.bounds.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.forget(self)
        self._disarm()
        super().connection_lost(exc)  # which resumes writing

    def pause_writing(self) -> None:
        """The client leaves so much unread that the answer has to wait: for so long, whatever kind of answer it is."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.bounds.flush_seconds, self._abandon)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """The parser keeps what it cannot deliver yet, so it gets no more of that than there is room for."""
        if self._resting:
            self._resting = False
            self._expect_head(self.bounds.head_seconds)
        while data and not self.transport.is_closing():
            piece, data = data[: self._room], data[self._room :]
            self._room -= len(piece)
            if not self._last:
                self._unset_keepalive_if_required()
                self._feed(piece)
            if self._room == 0:
                self._refuse(head_too_large(self.bounds.head_bytes))

    def on_message_begin(self) -> None:
        """Raises _TooEarlyError, which the parser turns into an error of its own."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._last, self.cycle.keep_alive = True, False
            raise _TooEarlyError
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._offered = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._offered:
            return
        self._delivered()
        self._disarm()
        self.scope["state"]["crowded"] = not self.table.work(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._delivered()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._delivered()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._rest(self.bounds.idle_seconds)
        self._resting = True

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._offered:
                self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            if not self._last:
                self._refuse(not_http())

    def _decline(self, rest: bytes) -> None:
        """Read the request as if it had offered no other protocol: behind an offer the parser reads no body."""
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([line, *headers, b"", rest]))

    def _rest(self, seconds: float) -> None:
        """Idle, and for so long at most."""
        self._expect_head(seconds)
        self.table.rest(self)

    def _expect_head(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._room < self.bounds.head_bytes:
            self._refuse(head_late(self.bounds.head_seconds))
        self._close()

    def _abandon(self) -> None:
        logger.info("%s: left its answer unread for %g s and was dropped", self.client, self.bounds.flush_seconds)
        self.transport.abort()

    def _close(self) -> None:
        """Once the client has read what was sent, or has had its time to."""
        self._disarm()
        self._timer = self.loop.call_later(self.bounds.flush_seconds, self._abandon)
        self.transport.close()

    def _delivered(self) -> None:
        self._room = self.bounds.head_bytes

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ApiError) -> None:
        """Answer, unless an answer is under way, and close."""
        logger.info("%s: %s", self.client, error.code)
        self._refusals.labels(error.code).inc()
        if self.cycle is None or self.cycle.response_started == self.cycle.response_complete:
            response = error.response()
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            self.transport.write(STATUS_LINE[error.status_code] + head + b"\r\n" + bytes(response.body))
        self._close()


class _TooEarlyError(Exception):
    """A request before the answer to the one before it."""


def protocol(settings: Settings, refusals: Counter) -> partial[BoundedProtocol]:
    """Makes the connections of one server; `refusals` counts by code."""
    bounds = Bounds(
        settings.max_header_bytes, settings.header_timeout_s, settings.keep_alive_s, settings.send_timeout_s
    )
    return partial(BoundedProtocol, bounds, ConnectionTable(settings.max_connections), refusals)
