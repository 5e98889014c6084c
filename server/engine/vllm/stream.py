"""One request's chunks, in time, and everything given back at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from server.engine.protocol import DeadlineExceeded, EngineError, TokenChunk

Leave = Callable[[bool], None]
"""Called once, with whether the work was cancelled."""


class VllmStream(AsyncIterator[TokenChunk]):
    """Closing it, or cancelling who waits for it, cancels the work; so does the deadline (time.monotonic()'s clock)."""

    def __init__(self, chunks: AsyncGenerator[TokenChunk, None], deadline: float | None, leave: Leave) -> None:
        self._chunks = chunks
        self._deadline = deadline
        self._leave = leave
        self._ended = False

    def __aiter__(self) -> VllmStream:
        return self

    async def __anext__(self) -> TokenChunk:
        if self._ended:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._seconds_left) as limit:
                chunk = await anext(self._chunks)
        except TimeoutError:
            await self.aclose()
            if limit.expired():
                raise DeadlineExceeded("the request's deadline passed") from None
            raise
        except EngineError:
            await self._end(cancelled=False)
            raise
        except BaseException:
            await self.aclose()
            raise
        if chunk.finish_reason is not None:
            await self._end(cancelled=False)
        return chunk

    async def aclose(self) -> None:
        """Stop the work, if it is not at its end."""
        await self._end(cancelled=True)

    @property
    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    async def _end(self, *, cancelled: bool) -> None:
        if not self._ended:
            self._ended = True
            try:
                await self._chunks.aclose()
            finally:
                self._leave(cancelled)
