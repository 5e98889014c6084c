"""HTTP/1.1 connections, bounded in what they may send, and how long they may take, before a request is there.

Uvicorn reads heads of any length, waits for them for ever, and counts idle connections like busy ones. A connection is
*idle* here from its beginning, and from the end of each answer, until the next request's head is complete.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    """From the connection's beginning, or its last answer, to a complete head."""
    flush_seconds: float
    """For the client to read what was sent before the connection was closed."""


class ConnectionTable:
    """Every open connection, idle or busy. Idle ones make room for new ones, the longest idle first."""

    def __init__(self, max_busy: int) -> None:
        self._max_busy = max_busy
        self._busy: set[BoundedProtocol] = set()
        self._idle: dict[BoundedProtocol, None] = {}

    def rest(self, connection: BoundedProtocol) -> None:
        """It is new, or its answer is complete."""
        self.forget(connection)
        self._idle[connection] = None
        if len(self._busy) + len(self._idle) > self._max_busy + SPARE_CONNECTIONS:
            longest = next(iter(self._idle))
            self.forget(longest)
            longest.transport.abort()

    def work(self, connection: BoundedProtocol) -> bool:
        """It has a request. False if more are busy than may be."""
        self.forget(connection)
        self._busy.add(connection)
        return len(self._busy) <= self._max_busy

    def forget(self, connection: BoundedProtocol) -> None:
        """It is closed."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A request that comes while too many are busy finds `crowded` in its scope's state."""

    def __init__(self, bounds: Bounds, table: ConnectionTable, refusals: Counter, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._refusals = refusals
        self._bounds = bounds
        self._table = table
        self._room = bounds.head_bytes
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.forget(self)
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The parser keeps what it cannot deliver yet, so it gets no more of that than there is room for."""
        while data and not self.transport.is_closing():
            piece, data = data[: self._room], data[self._room :]
            self._room -= len(piece)
            super().data_received(piece)
            if self._room == 0:
                self._refuse(head_too_large(self._bounds.head_bytes))

    def on_headers_complete(self) -> None:
        self._delivered()
        self._disarm()
        self.scope["state"]["crowded"] = not self._table.work(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._delivered()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._delivered()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next one was there already
            self._rest()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's own would be plain text."""
        self._refuse(not_http())

    def _rest(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self._bounds.head_seconds, self._late)
        self._table.rest(self)

    def _late(self) -> None:
        self._timer = self.loop.call_later(self._bounds.flush_seconds, self.transport.abort)
        if self._room < self._bounds.head_bytes:
            self._refuse(head_late(self._bounds.head_seconds))
        self.transport.close()

    def _delivered(self) -> None:
        self._room = self._bounds.head_bytes

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
        self.transport.close()


def protocol(settings: Settings, refusals: Counter) -> partial[BoundedProtocol]:
    """Makes the connections of one server; `refusals` counts by code."""
    bounds = Bounds(settings.max_header_bytes, settings.header_timeout_s, settings.send_timeout_s)
    return partial(BoundedProtocol, bounds, ConnectionTable(settings.max_connections), refusals)
