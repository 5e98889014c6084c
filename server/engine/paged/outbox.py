"""What the engine's thread has for event loops, handed over with one wake-up per loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

log = logging.getLogger(__name__)

Reply = Callable[[], object]
"""Carried out on the event loop."""


class Outbox:
    """Filled and flushed by the engine's thread."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, list[Reply]] = {}

    def post(self, loop: asyncio.AbstractEventLoop, reply: Reply) -> None:
        """To be carried out on `loop` after the next flush, in this order."""
        self._waiting.setdefault(loop, []).append(reply)

    def settle(self, future: asyncio.Future[None], error: Exception | None) -> None:
        """Post the future's outcome."""
        self.post(future.get_loop(), partial(settle, future, error))

    def flush(self) -> None:
        """Hand over everything."""
        waiting, self._waiting = self._waiting, {}
        for loop, replies in waiting.items():
            try:
                loop.call_soon_threadsafe(_carry_out, replies)
            except RuntimeError:  # the loop has closed: nobody is left to read
                log.debug("dropped %d replies to a closed event loop", len(replies))


def settle(future: asyncio.Future[None], error: Exception | None) -> None:
    """On the future's loop: its outcome, unless it has one already."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _carry_out(replies: list[Reply]) -> None:
    for reply in replies:
        reply()
