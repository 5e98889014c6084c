"""Letting history go that is older than it is to be kept, in the background and beside edits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kb.errors import KnowledgeError, StoreClosed

DAY_S = 86_400.0
LEAST_AGE_S = 120.0
"""Of what is let go: a writer may still ask whether an edit of a moment ago was committed."""
KEPT_VERSIONS = 2
"""At least, however old: as many as a head marker of which half is damaged may be behind."""
LOOK_SECONDS = 60.0
PAUSE_S = 0.02
"""Between two steps: for others' edits."""

_logger = logging.getLogger(__name__)


class Retention:
    """One daemon thread."""

    def __init__(self, compact: Callable[[float], int], days: float) -> None:
        """`compact(cutoff)` lets some of what was made before it (unix seconds) go; 0: there is nothing."""
        self._compact = compact
        self._age = max(days * DAY_S, LEAST_AGE_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kb-retention", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the step under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                gone = self._compact(time.time() - self._age)
            except StoreClosed:
                return
            except Exception as error:
                gone = 0
                known = isinstance(error, KnowledgeError)
                _logger.warning("old history could not be let go: %s", error if known else "", exc_info=not known)
            self._stopping.wait(PAUSE_S if gone else LOOK_SECONDS)
