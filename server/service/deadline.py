"""The service's own clock: a request ends at its deadline even if whoever works for it never answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from server.engine.protocol import DeadlineExceeded, TokenChunk
from server.service.errors import DeadlinePassed


@asynccontextmanager
async def in_time(deadline: float) -> AsyncGenerator[None, None]:
    """Cancels the block at the deadline (on time.monotonic()'s clock). Raises DeadlinePassed."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlinePassed("The request's deadline passed.") from None


async def cut_at(
    chunks: AsyncGenerator[tuple[int, TokenChunk], None], deadline: float, choices: int, patience_s: float
) -> AsyncGenerator[tuple[int, TokenChunk], None]:
    """(choice, chunk), as they come before the deadline; then every choice that has not ended ends as it is.

    Who reads slowly may take what had come by then for `patience_s` longer: a byte a second would keep it for hours.
    Raises DeadlinePassed if there is nothing yet that could be cut.
    """
    unfinished = set(range(choices))
    begun = False
    async with aclosing(chunks):
        while unfinished and not (begun and time.monotonic() >= deadline + patience_s):
            try:
                async with in_time(deadline):
                    choice, chunk = await anext(chunks)
            except (DeadlinePassed, DeadlineExceeded):
                if not begun:
                    raise
                break
            begun = True
            if chunk.finish_reason is not None:
                unfinished.discard(choice)
            yield choice, chunk
    for choice in sorted(unfinished):
        yield choice, TokenChunk(text="", token_ids=(), finish_reason="length", timed_out=True)
