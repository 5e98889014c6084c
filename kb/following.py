"""Following a log that others append to: what they did is published here, too, and how far behind this is is known."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kb.errors import KnowledgeError, StoreCorrupt
from kb.log.postgres import PostgresLog

Contact: TypeAlias = Literal["connected", "lost", "diverged"]
"""With the log. Lost: it cannot be read now. Diverged: it does not hold what has been published here."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Between two attempts to reach a lost log."""
STOP_SECONDS = 5.0
SILENCE_S = 15.0
"""A log that has told nothing for so long, although it was asked, is lost."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogState:
    """How a store stands with its log."""

    contact: Contact = "connected"
    versions_behind: int = 0
    """Versions in the log, as far as is known, that are not published here."""
    seconds_behind: float = 0.0
    """How long ago this was last known to hold all that the log does; 0 if it does."""


class Follower:
    """One daemon thread. `catch_up` publishes what is new in the log, and tells `saw` of what it finds."""

    def __init__(self, log: PostgresLog, catch_up: Callable[[], int], published: int, poll_seconds: float) -> None:
        """Starts at `published`, which is the log's end."""
        self._log = log
        self._catch_up = catch_up
        self._poll_seconds = poll_seconds
        self._contact: Contact = "connected"
        self._newest = published
        self._heard_at = self._current_at = time.monotonic()
        self._stopping = threading.Event()
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="kb-follower", daemon=True)

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Waits for a moment at most: the thread may be waiting for a database that is gone."""
        self._stopping.set()
        self.wake()
        self._thread.join(STOP_SECONDS)
        if not self._thread.is_alive():
            os.close(self._woken)
            os.close(self._waker)

    def wake(self) -> None:
        """Has the log looked at now."""
        with suppress(OSError):  # full: it is awake; closed: it has ended
            os.write(self._waker, b"!")

    def saw(self, newest: int, published: int) -> None:
        """The log ends at `newest`; `published` is what readers see now."""
        self._heard_at = time.monotonic()
        self._newest = max(self._newest, newest)
        if published >= newest:
            self._current_at = self._heard_at

    def state(self, published: int) -> LogState:
        """With readers at this version."""
        now = time.monotonic()
        silent = now - self._heard_at > self._poll_seconds + SILENCE_S
        contact: Contact = "lost" if self._contact == "connected" and silent else self._contact
        behind = max(0, self._newest - published)
        current = contact == "connected" and not behind
        return LogState(contact, behind, 0.0 if current else now - self._current_at)

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                with self._log.listening() as listener:
                    while not self._stopping.is_set():
                        self._catch_up()
                        self._note("connected")
                        pause = FIRST_PAUSE_S
                        listener.wait(self._woken, self._poll_seconds)
                        self._drain()
            except Exception as error:
                if not self._stopping.is_set():
                    self._note("diverged" if isinstance(error, StoreCorrupt) else "lost", error)
                    self._stopping.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _note(self, contact: Contact, error: Exception | None = None) -> None:
        if contact == self._contact:
            return
        self._contact = contact
        if error is None:
            _logger.warning("the knowledge's log is followed again")
        elif isinstance(error, KnowledgeError):
            _logger.error("the knowledge stays as it is, and takes no edits: its log is %s: %s", contact, str(error))
        else:
            _logger.error("the knowledge stays as it is: its log is %s", contact, exc_info=error)
