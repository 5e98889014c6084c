"""Merges index segments in the background, so that no edit waits for a large copy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from kb.index.namespace import merge
from kb.index.part import Part
from kb.snapshot import Snapshot

_log = logging.getLogger(__name__)


class Compactor:
    """One daemon thread. `install(namespace, plan, merged)` must publish under the writer's lock."""

    def __init__(self, current: Callable[[], Snapshot], install: Callable[[str, tuple[Part, ...], Part], None]) -> None:
        self._current = current
        self._install = install
        self._work = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kb-compactor", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """The snapshot changed; it may be worth merging something."""
        self._work.set()

    def stop(self) -> None:
        """Ends the thread after the merge that it is in. Must be called without the writer's lock."""
        self._stopping = True
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            if self._stopping:
                return
            try:
                while not self._stopping and self._merge_one():
                    pass
            except Exception:
                # The index stays correct, only slower to search; the next edit tries again.
                _log.exception("merging index segments failed")

    def _merge_one(self) -> bool:
        for namespace, index in self._current().indexes.items():
            plan = index.merge_plan()
            if plan:
                self._install(namespace, plan, merge(plan))
                return True
        return False
