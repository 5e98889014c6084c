"""What is wrong with a disk, in few lines: it is wrong for every file, and there may be a million of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

SECONDS = 60.0
"""Between two lines about the same thing."""
KINDS = 64
"""Told apart; of more the longest known are forgotten, and so told again."""


class Complaints:
    """Thread-safe. A thing is told at once, and then once a minute at most, with how often it happened meanwhile."""

    def __init__(self, log: logging.Logger, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._lock = threading.Lock()
        self._told: dict[tuple[str, object], tuple[float, int]] = {}
        """When it was last told, and how often it was not since; the longest known first."""

    def tell(self, level: int, what: str, about: object, error: Exception) -> None:
        """`what` has a place for `about` and one for the error; what it was about does not make it another thing."""
        thing = (what, getattr(error, "errno", None) or type(error))
        with self._lock:
            at, untold = self._told.get(thing, (None, 0))
            if at is not None and self._now() - at < SECONDS:
                self._told[thing] = at, untold + 1
                return
            self._told.pop(thing, None)
            if len(self._told) >= KINDS:
                del self._told[next(iter(self._told))]
            self._told[thing] = self._now(), 0
        more = f" ({untold} more like this since it was last told)" if untold else ""
        self._log.log(level, f"{what}%s", about, error, more)
