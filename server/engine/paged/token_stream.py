"""The asynchronous end of a generation: what the engine's thread produces, one event loop consumes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from server.engine.protocol import DeadlineExceeded, TokenChunk


class TokenStream(AsyncIterator[TokenChunk]):
    """Iterates one request's chunks. Closing it, or never finishing it, cancels the work.

    The deadline (time.monotonic()'s clock) is kept here, so that it holds even if the engine hangs. Never holds more
    than the request's max_tokens chunks.
    """

    def __init__(self, cancel: Callable[[], None], deadline: float | None) -> None:
        self._queue: asyncio.Queue[TokenChunk | Exception] = asyncio.Queue()
        self._cancel = cancel
        self._complete = False
        """Nothing more goes into the queue."""
        self._ended = False
        self._timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def put(self, item: TokenChunk | Exception) -> None:
        """Called on the event loop. What comes after the last chunk or an error is dropped."""
        if self._complete:
            return
        self._queue.put_nowait(item)
        if isinstance(item, Exception) or item.finish_reason is not None:
            self._close()

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> TokenChunk:
        if self._ended:
            raise StopAsyncIteration
        try:
            item = await self._queue.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if isinstance(item, Exception):
            self._ended = True
            raise item
        self._ended = item.finish_reason is not None
        return item

    async def aclose(self) -> None:
        if not self._ended:
            self._ended = True
            self._close()
            self._cancel()

    def _close(self) -> None:
        self._complete = True
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.put(DeadlineExceeded("the request's deadline passed"))
        self._cancel()
