"""Merges index segments in the background, so that no edit waits for a large copy."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import faiss

from kb.index.merging import Merged, built
from kb.index.namespace import NamespaceIndex
from kb.index.part import Part
from kb.index.quantized import QuantizedSegment, worth_quantizing
from kb.index.stored import SegmentStore
from kb.snapshot import Snapshot

LONG_ROWS: Final = 1 << 16
"""A merge of so many rows takes seconds, so others of the same namespace go on meanwhile."""
BULK_ROWS: Final = 512
"""An edit of so many facts is one of many, as of an import."""
BULK_SECONDS: Final = 1.0
"""So long after one of those more are waited for."""
_PATIENCE: Final = 3
"""During an import, as `NamespaceIndex.merge_plan` has it: rows are copied half as often, and once more at its end."""
_NOTHING: Final = NamespaceIndex()

_log = logging.getLogger(__name__)


class Compactor:
    """Two daemon threads, the second for long merges. `install(namespace, plan, merged)` must publish under the
    writer's lock."""

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
        self._changed = threading.Condition()
        self._touched: set[str] = set()
        self._importing: dict[str, float] = {}  # namespace -> end of the patience with it
        self._long: tuple[str, tuple[Part, ...]] | None = None
        self._postponed: set[str] = set()
        self._failed: set[str] = set()
        self._removing = threading.Lock()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=name, daemon=True)
            for step, name in ((self._merge_next, "kb-compactor"), (self._merge_long, "kb-compactor-long"))
        ]
        for thread in self._threads:
            thread.start()

    def notify(self, namespaces: Iterable[str], rows: int = 0) -> None:
        """These have changed, by so many rows, so that it may be worth merging something of theirs. There may be
        thousands of others."""
        changed = {*namespaces}
        with self._changed:
            if rows >= BULK_ROWS:
                self._importing |= dict.fromkeys(changed, time.monotonic() + BULK_SECONDS)
            self._touched |= changed | self._failed
            self._failed.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the threads after the merges that they are in. Must be called without the writer's lock."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, step: Callable[[], None]) -> None:
        faiss.omp_set_num_threads(1)  # of this thread: see `cpu.threads`
        while not self._stopping:
            try:
                step()
            except Exception:
                # The index stays correct, only slower to search; the next edit tries again.
                _log.exception("merging index segments failed")

    def _merge_next(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._touched or self._stopping, self._end_patience())
            if self._stopping or not self._touched:
                return
            namespace = self._touched.pop()
        self._merge(namespace)

    def _end_patience(self) -> float | None:
        """With imports that are over; seconds until the next one may be, None if there is none under way."""
        now = time.monotonic()
        over = [name for name, end in self._importing.items() if end <= now]
        for name in over:
            del self._importing[name]
        self._touched |= {*over} - self._failed
        return min(self._importing.values()) - now if self._importing else None

    def _merge_long(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._long or self._stopping)
            if self._stopping or self._long is None:
                return
            namespace, plan = self._long
        try:
            self._make(namespace, plan)
        finally:
            with self._changed:
                self._long = None
                # With what came meanwhile there may be more to merge; not what failed: that waits for an edit.
                self._touched |= (self._postponed | {namespace}) - self._failed
                self._postponed.clear()
                self._changed.notify_all()

    def _merge(self, namespace: str) -> None:
        """All that is worth it now. One that fails is left for the next edit, of whatever namespace."""
        while not self._stopping:
            with self._changed:
                under_way = self._long[1] if self._long is not None and self._long[0] == namespace else ()
                patience = _PATIENCE if namespace in self._importing else 1
            index = self._current().indexes.get(namespace, _NOTHING)
            plan = index.merge_plan(under_way, patience)
            if not plan:
                return
            if sum(part.live for part in plan) < LONG_ROWS:
                self._make(namespace, plan)
            elif not self._begin_long(namespace, plan):
                return

    def _begin_long(self, namespace: str, plan: tuple[Part, ...]) -> bool:
        """False: another one is under way, and this comes after it."""
        with self._changed:
            if self._long is not None:
                self._postponed.add(namespace)
                return False
            self._long = namespace, plan
            self._changed.notify_all()
            return True

    def _make(self, namespace: str, plan: tuple[Part, ...]) -> None:
        try:
            merged = self._merged(namespace, plan)
        except Exception:
            with self._changed:
                self._failed.add(namespace)
            raise
        self._install(namespace, plan, merged)
        if any(isinstance(part.segment, QuantizedSegment) for part in (*plan, merged)):
            self._remove_unused(merged)
            _give_back()

    def _remove_unused(self, installed: Part) -> None:
        if self._segments is None:
            return
        with self._removing:  # so that what the other thread has just installed is in one of the two
            self._segments.installed(installed.segment)
            indexes = self._current().indexes.values()
            self._segments.keep(part.segment for index in indexes for part in index.parts)

    def _merged(self, namespace: str, plan: tuple[Part, ...]) -> Part:
        if not worth_quantizing(sum(part.live for part in plan)):
            return built(plan)
        merged = Merged.of(plan)
        if self._segments is not None:
            try:
                return Part.of(self._segments.write(namespace, merged))
            except OSError:
                _log.warning("an index segment could not be kept, so it stays in memory", exc_info=True)
        return Part.of(merged.quantized())


def _give_back() -> None:
    """What a large merge freed goes back to the system, if the C library (glibc) can do that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
