"""Merges index segments in the background, so that no edit waits for a large copy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from kb.index.merging import Merged, built
from kb.index.namespace import NamespaceIndex
from kb.index.part import Part
from kb.index.quantized import QuantizedSegment, worth_quantizing
from kb.index.stored import SegmentStore
from kb.snapshot import Snapshot

_NOTHING: Final = NamespaceIndex()

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
        self._lock = threading.Lock()
        self._touched: set[str] = set()
        self._work = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kb-compactor", daemon=True)
        self._thread.start()

    def notify(self, namespaces: Iterable[str]) -> None:
        """These have changed, so that it may be worth merging something of theirs. There may be thousands of others."""
        with self._lock:
            self._touched.update(namespaces)
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
                while not self._stopping and (namespace := self._next()) is not None:
                    self._merge(namespace)
            except Exception:
                # The index stays correct, only slower to search; the next edit tries again.
                _log.exception("merging index segments failed")

    def _next(self) -> str | None:
        with self._lock:
            return self._touched.pop() if self._touched else None

    def _merge(self, namespace: str) -> None:
        """All that is worth it now. One that fails is left for the next edit, of whatever namespace."""
        while not self._stopping:
            snapshot = self._current()
            plan = snapshot.indexes.get(namespace, _NOTHING).merge_plan()
            if not plan:
                return
            try:
                merged = self._merged(snapshot, namespace, plan)
            except Exception:
                with self._lock:
                    self._touched.add(namespace)
                raise
            self._install(namespace, plan, merged)
            if any(isinstance(part.segment, QuantizedSegment) for part in (*plan, merged)):
                self._remove_unused()

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
