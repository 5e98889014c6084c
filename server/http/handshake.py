"""TLS connections that have not begun to speak: as bounded in number and time as those whose request has not come.

Left to the event loop, a client that connects and says nothing has a place for a minute, and nobody counts it: a few
thousand take every file that the process may open, its log's and those of the other listener included.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from server.http.protocol import BoundedProtocol


class Handshake(asyncio.Protocol):
    """Counted like an idle connection until client and server have agreed; `connection` takes over then."""

    def __init__(self, context: ssl.SSLContext, connection: BoundedProtocol) -> None:
        self._context = context
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the socket away from its transport, which has not read yet: what comes first is not for us."""
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        transport.abort()
        self._connection.table.rest(self)
        self._connection.connections.add(self)  # type: ignore[arg-type]  # all that is asked of it is `shutdown`
        self._agreeing = self._connection.loop.create_task(self._agree())
        self._agreeing.add_done_callback(self._over)

    def drop(self) -> None:
        """The client loses its place."""
        self._agreeing.cancel()

    shutdown = drop
    """As uvicorn calls it."""

    async def _agree(self) -> None:
        with suppress(OSError):  # no TLS, too slow, or gone
            await self._connection.loop.connect_accepted_socket(
                lambda: self._connection,
                self._socket,
                ssl=self._context,
                ssl_handshake_timeout=self._connection.bounds.head_seconds,
            )
            return
        self._socket.close()

    def _over(self, agreeing: asyncio.Task[None]) -> None:
        self._connection.table.forget(self)
        self._connection.connections.discard(self)
        if agreeing.cancelled():  # perhaps before it began
            self._socket.close()


def secured(context: ssl.SSLContext, plain: Callable[..., BoundedProtocol], **uvicorn: Any) -> Handshake:
    """A connection of uvicorn's, by TLS."""
    return Handshake(context, plain(**uvicorn))
