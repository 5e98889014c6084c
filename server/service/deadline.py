"""The service's own clock: a request ends at its deadline even if whoever works for it never answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from server.service.errors import DeadlinePassed

T = TypeVar("T")


@asynccontextmanager
async def in_time(deadline: float) -> AsyncGenerator[None, None]:
    """Cancels the block at the deadline (on time.monotonic()'s clock). Raises DeadlinePassed."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlinePassed("The request's deadline passed.") from None


async def items_in_time(items: AsyncGenerator[T, None], deadline: float) -> AsyncGenerator[T, None]:
    """The items that come before the deadline. Raises DeadlinePassed if there were to be more."""
    async with aclosing(items):
        while True:
            async with in_time(deadline):
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            yield item
