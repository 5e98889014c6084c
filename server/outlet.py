"""stderr of a server, which waits for nobody: who reads it may be slow, stop, or leave, and its disk may be full.

What is written waits in memory, within a bound, for a thread of its own. What finds no room there is dropped and
counted; what cannot be written is gone.
"""

from __future__ import annotations

import atexit
import io
import logging
import queue
import threading
from contextlib import suppress
from typing import TextIO

MAX_WAITING = 4096
"""Writes: a line of the log each, or a few lines about an exception."""
PARTING_SECONDS = 2.0
"""How long the end of the process waits for what is still to be written."""
logger = logging.getLogger("kalmagrove.log")


class Outlet(io.TextIOBase):
    """Takes text from any thread, at once and whatever happens to it. `finish` ends it; so does the process's end."""

    def __init__(self, stream: TextIO | None, most: int = MAX_WAITING) -> None:
        """`stream` None: there is no stderr."""
        super().__init__()
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(most)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write_on, name="kalmagrove-log", daemon=True)
        self._writer.start()
        atexit.register(self.finish)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8" if self._stream is None else self._stream.encoding

    @property
    def writing(self) -> bool:
        """Until it is finished."""
        return self._writer.is_alive()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Never waits and never raises."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self._dropped += 1
        return len(text)

    def finish(self, seconds: float = PARTING_SECONDS) -> None:
        """Wait until everything is written, but no longer than that. What comes later is dropped."""
        atexit.unregister(self.finish)
        with suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
            self._writer.join(seconds)

    def _write_on(self) -> None:
        while (text := self._waiting.get()) is not None:
            # OSError: nobody reads, or there is no room. ValueError: it was closed.
            with suppress(OSError, ValueError):
                if self._stream is not None:
                    self._stream.write(text)
                    self._stream.flush()
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        """As a line of the log, once there is room for it."""
        if self._dropped and self._waiting.empty():
            dropped, self._dropped = self._dropped, 0
            logger.warning("%d lines were dropped: they came faster than they could be written", dropped)
