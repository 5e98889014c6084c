"""The thread on which files are written and deleted: the file system may take tens of milliseconds over either."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from server.engine.pages.complaints import Complaints

log = logging.getLogger(__name__)

MAX_WRITES = 256
"""That may wait; more are not done at all: page content on disk is a cache."""
NICENESS = 10
IDLE_SECONDS = 1.0
"""Between two looks at the disk while there is nothing to do."""
BUSY_SECONDS = 30.0
"""The same while there is."""
CLOSE_SECONDS = 10.0
Action = Callable[[], object]


class Janitor:
    """Of several orders for one key only the newest is carried out; removals, which make room, come before writes.
    What goes wrong with them is logged, not each time."""

    def __init__(self, look: Action) -> None:
        """`look` is called on the thread now and then."""
        self._look = look
        self._complaints = Complaints(log)
        self._looked = time.monotonic()
        self._worked = False
        """Whether an order was carried out since."""
        self._changed = threading.Condition()
        self._removals: OrderedDict[str, Action] = OrderedDict()
        self._writes: OrderedDict[str, Action] = OrderedDict()
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="kalmagrove-pages", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Writes that wait."""
        return len(self._writes)

    def write(self, key: str, action: Action) -> bool:
        """False if too many writes wait already."""
        with self._changed:
            if len(self._writes) >= MAX_WRITES:
                return False
            self._removals.pop(key, None)
            self._writes[key] = action
            self._changed.notify_all()
            return True

    def remove(self, key: str, action: Action) -> None:
        """Takes the place of a write of the same key. Never refused: there are no more keys than files."""
        with self._changed:
            self._writes.pop(key, None)
            self._removals[key] = action
            self._changed.notify_all()

    def cancel(self, key: str) -> None:
        """An order that was not begun is off."""
        with self._changed:
            self._writes.pop(key, None)
            self._removals.pop(key, None)

    def flush(self) -> None:
        """Wait until everything ordered so far is done."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._removals or self._writes or self._busy))

    def close(self) -> None:
        """Do what is ordered, for a bounded time, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            left = len(self._removals) + len(self._writes)
            log.error("the disk of the page files does not answer; %d orders are left", left)

    def _run(self) -> None:
        # Nobody waits for this thread, but edits and streams wait for the processor.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (action := self._next()) is not None:
            try:
                action()
            except Exception as error:  # of a disk, or of content that cannot be made: the next one may do
                self._complaints.tell(logging.WARNING, "page content%s on disk: %s", "", error)

    def _next(self) -> Action | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            woken = self._changed.wait_for(lambda: self._removals or self._writes or self._closed, IDLE_SECONDS)
            orders = self._removals or self._writes
            if not orders and woken:
                return None
            self._busy = True
            if not orders or (self._worked and time.monotonic() - self._looked >= BUSY_SECONDS):
                self._looked, self._worked = time.monotonic(), False
                return self._look
            self._worked = True
            return orders.popitem(last=False)[1]
