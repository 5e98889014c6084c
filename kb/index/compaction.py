"""Merges index segments in the background, so that no edit waits for a large copy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from kb.index.merging import Merged, built
from kb.index.part import Part
from kb.index.quantized import worth_quantizing
from kb.index.stored import SegmentStore
from kb.snapshot import Snapshot

_log = logging.getLogger(__name__)


class Compactor:
    """One daemon thread. `install(namespace, plan, merged)` must publish under the writer's lock."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        install: Callable[[str, tuple[Part, ...], Part], None],
        segments: SegmentStore | None,
    ) -> None:
        """`segments`: where large ones are kept; None: in memory only."""
        self._current = current
        self._install = install
        self._segments = segments
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
        snapshot = self._current()
        for namespace, index in snapshot.indexes.items():
            plan = index.merge_plan()
            if plan:
                self._install(namespace, plan, self._merged(snapshot, namespace, plan))
                self._remove_unused()
                return True
        return False

    def _merged(self, snapshot: Snapshot, namespace: str, plan: tuple[Part, ...]) -> Part:
        """`plan` is of `snapshot`, whose facts therefore say what its living rows hold."""
        if not worth_quantizing(sum(part.live for part in plan)):
            return built(plan)
        merged = Merged.of(plan)
        if self._segments is not None:
            try:
                return Part.of(self._segments.write(namespace, merged, partial(snapshot.find, namespace)))
            except OSError:
                _log.warning("an index segment could not be kept, so it stays in memory", exc_info=True)
        return Part.of(merged.quantized())

    def _remove_unused(self) -> None:
        if self._segments is not None:
            indexes = self._current().indexes.values()
            self._segments.keep(part.segment for index in indexes for part in index.parts)
