"""Opening: what the log holds after the saved state is replayed and checked, then every fact's vector is found and
indexed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

import immutables

from kb.encoder.embeddings import EmbeddingCache
from kb.errors import StoreUnavailable, WriteFailed
from kb.facts import Fact
from kb.index.merging import built
from kb.index.namespace import NamespaceIndex
from kb.index.part import Part
from kb.index.segment import Vectors
from kb.index.stored import SegmentStore
from kb.log.batch import GENESIS, Batch
from kb.log.fact_log import FactLog
from kb.log.location import Location
from kb.log.marker import Head, HeadMarker
from kb.log.state import State
from kb.replay import replay, row_of
from kb.snapshot import Snapshot

Progress = Callable[[int, int], None]
_CHUNK = 512

_logger = logging.getLogger(__name__)


def open_marker(location: Location) -> HeadMarker:
    """The head marker beside a SQLite database, made with it. Raises StoreCorrupt, StoreUnavailable."""
    assert location.database is not None
    path = location.beside(".head")
    try:
        marker = HeadMarker(path)
        if not location.database.exists():
            # Before SQLite would make an empty database that hides the loss.
            if marker.existed:
                marker.check(Head(0, GENESIS), None, location.database)
            else:
                marker.create()
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    return marker


def check_head(head: Head, marker: HeadMarker | None, log: FactLog, location: Location) -> None:
    """Whether the log ends where the marker says, which is then brought up to it. Raises like `open_marker`."""
    if marker is None or location.database is None:
        return
    try:
        acknowledged = marker.head
        there = None if acknowledged is None else log.chain_at(acknowledged.version)
        marker.check(head, there, location.database)
        marker.repair(head)
    except OSError as error:
        raise StoreUnavailable(f"{marker.path}: {error}") from error


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing that a start makes is garbage, and looking for some among millions of objects takes seconds."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Loader:
    """Reads a log on from `state`, once. `progress(done, total)` counts log entries first, then facts."""

    def __init__(
        self,
        log: FactLog,
        state: State,
        cache: EmbeddingCache,
        segments: SegmentStore | None,
        progress: Progress | None,
    ) -> None:
        self._log = log
        self._cache = cache
        self._segments = segments
        self._progress = progress
        self._done = 0
        self._facts = dict(state.facts)
        self.head = state.head
        self.replayed = self._total = log.entry_count(after=state.head.version)

    def load(self, check: Callable[[Head], None]) -> Snapshot:
        """The snapshot at the log's head; `check(head)` is called when the log has proved sound in itself."""
        facts = replay(self._log.scan(self.head), self._facts, self._on_batch)
        check(self.head)
        self._total += len(facts)
        indexes, changed = self._indexes(facts.values()), immutables.Map(self._log.last_changes(self.head.version))
        return Snapshot(self.head.version, immutables.Map(facts), indexes, changed)

    def _on_batch(self, batch: Batch) -> None:
        self.head = Head(batch.version, batch.chain)
        self._advance(len(batch.entries))

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _indexes(self, facts: Iterable[Fact]) -> immutables.Map[str, NamespaceIndex]:
        missing: dict[str, dict[str, Fact]] = {}
        for fact in facts:
            missing.setdefault(fact.namespace, {})[fact.id] = fact
        parts: dict[str, list[Part]] = {namespace: [] for namespace in missing}
        for namespace, part in self._stored(missing):
            parts[namespace].append(part)
            for fact_id in part.living_ids(""):
                del missing[namespace][fact_id]
            self._advance(part.live)
        left = {name: sorted(some.values(), key=lambda fact: fact.id) for name, some in missing.items() if some}
        # One after the other through all namespaces: there may be thousands of a few facts each.
        vectors = self._vectors_of([fact for some in left.values() for fact in some])
        for found in parts.values():
            # As merges leave them: one that came after smaller ones would be merged with them.
            found.sort(key=lambda part: -part.live)
        for namespace, some in left.items():
            parts[namespace].append(self._part(some, islice(vectors, len(some))))
        return immutables.Map({name: NamespaceIndex(tuple(found)) for name, found in parts.items()})

    def _stored(self, facts: dict[str, dict[str, Fact]]) -> Iterable[tuple[str, Part]]:
        return () if self._segments is None else self._segments.parts(facts)

    def _part(self, facts: list[Fact], vectors: Iterable[Vectors]) -> Part:
        return built((), [row_of(fact, vector) for fact, vector in zip(facts, vectors, strict=True)])

    def _vectors_of(self, facts: Sequence[Fact]) -> Iterator[Vectors]:
        """float32 [dimension] of each, many looked up at once."""
        for start in range(0, len(facts), _CHUNK):
            some = facts[start : start + _CHUNK]
            vectors = self._vectors([fact.text for fact in some])
            self._advance(len(some))
            yield from (vectors[fact.text] for fact in some)

    def _vectors(self, texts: list[str]) -> dict[str, Vectors]:
        vectors = self._cache.stored(texts)
        computed = self._cache.compute([text for text in dict.fromkeys(texts) if text not in vectors])
        with suppress(WriteFailed):  # only a cache: what cannot be kept is computed again next time
            self._log.store_cache(self._cache.rows(computed))
        return vectors | computed
