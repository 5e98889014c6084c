"""The asynchronous end of a generation: what the engine's thread produces, one event loop consumes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from server.engine.protocol import TokenChunk


class TokenStream(AsyncIterator[TokenChunk]):
    """Iterates one request's chunks. Closing it, or never finishing it, cancels the work.

    Never holds more than the request's max_tokens chunks.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._queue: asyncio.Queue[TokenChunk | Exception] = asyncio.Queue()
        self._cancel = cancel
        self._ended = False

    def put(self, item: TokenChunk | Exception) -> None:
        """Called on the event loop."""
        self._queue.put_nowait(item)

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
            self._cancel()
