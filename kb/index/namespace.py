"""The vector index of one namespace: a few immutable segments, newest last, and bitmaps of their living rows.

An edit makes a new `NamespaceIndex` that shares every segment with the old one, except the small last
segment, which is rebuilt. Merging keeps the number of segments logarithmic; it too only makes new objects. So
a search needs no lock.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kb.index.segment import Bitmap, FlatSegment, Segment, Times, Vectors, row_of

# Rows below which the last segment is rebuilt by an edit (copying 256 × 384 floats takes tens of
# microseconds).
DELTA_ROWS = 256
# An edit merges by itself once a background merge has fallen this far behind.
MOST_PARTS = 48


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be added: vector is float32 [dim], expires_at unix seconds or infinity."""

    id: str
    vector: Vectors
    expires_at: float


@dataclass(frozen=True, slots=True)
class Part:
    """A segment and which of its rows are alive."""

    segment: Segment
    alive: Bitmap | None
    """One bit per row, lowest first; None: all alive."""
    live: int
    next_expiry: float
    """Earliest expiry among the living rows."""

    @classmethod
    def of(cls, segment: Segment) -> Part:
        """A part whose rows are all alive."""
        return cls(segment, None, len(segment), float(segment.expires.min(initial=math.inf)))

    def row(self, fact_id: str) -> int | None:
        """The living row of `fact_id`."""
        row = row_of(self.segment, fact_id)
        return row if row is not None and self.is_alive(row) else None

    def is_alive(self, row: int) -> bool:
        """Whether the row was neither deleted nor replaced."""
        return self.alive is None or bool(self.alive[row >> 3] >> (row & 7) & 1)

    def mask(self) -> NDArray[np.bool_]:
        """bool [rows]: alive."""
        if self.alive is None:
            return np.ones(len(self.segment), dtype=np.bool_)
        return np.unpackbits(self.alive, count=len(self.segment), bitorder="little").view(np.bool_)

    def selected(self, now: float) -> Bitmap | None:
        """The rows that a search at `now` may return."""
        if self.next_expiry > now:
            return self.alive
        return np.packbits(self.mask() & (self.segment.expires > now), bitorder="little")

    def without(self, rows: Sequence[int]) -> Part:
        """This part with some living rows dead."""
        mask = self.mask().copy()
        mask[list(rows)] = False
        next_expiry = self.next_expiry
        if next_expiry < math.inf:
            next_expiry = float(self.segment.expires[mask].min(initial=math.inf))
        alive = np.packbits(mask, bitorder="little")
        return replace(self, alive=alive, live=self.live - len(rows), next_expiry=next_expiry)

    def living_ids(self, after: str) -> Iterator[str]:
        """Ids of living rows greater than `after`, ascending."""
        ids = self.segment.ids
        for row in range(bisect_right(ids, after), len(ids)):
            if self.is_alive(row):
                yield ids[row]


@dataclass(frozen=True, slots=True)
class NamespaceIndex:
    """Immutable; every method that changes something returns a new index."""

    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return sum(part.live for part in self.parts)

    @property
    def tombstones(self) -> int:
        """Rows that segments still hold but no search returns."""
        return sum(len(part.segment) - part.live for part in self.parts)

    def search(self, query: Vectors, k: int, now: float) -> list[tuple[str, float, Vectors]]:
        """(id, inner product, vector) of the k best living rows, best first, ties by id. `query` is float32 [dim]."""
        found: list[tuple[float, str]] = []
        vectors: dict[str, Vectors] = {}
        precise = query.astype(np.float64)
        for part in self.parts:
            rows = part.segment.search(query, k, part.selected(now))
            # Scored again in float64, so that equal vectors tie exactly in whichever segments they lie.
            ids = [part.segment.ids[row] for row in rows.tolist()]
            of_rows = part.segment.vectors(rows)
            scores = (of_rows.astype(np.float64) * precise).sum(axis=1)
            found.extend(zip((-scores).tolist(), ids, strict=True))
            vectors.update(zip(ids, of_rows, strict=True))
        return [(fact_id, -score, vectors[fact_id]) for score, fact_id in heapq.nsmallest(k, found)]

    def ids(self, after: str = "") -> Iterator[str]:
        """Living ids greater than `after`, ascending."""
        return heapq.merge(*(part.living_ids(after) for part in self.parts))

    def expired(self, now: float) -> Iterator[str]:
        """Living ids whose time is over at `now`."""
        for part in self.parts:
            if part.next_expiry <= now:
                over = part.mask() & (part.segment.expires <= now)
                yield from (part.segment.ids[row] for row in np.flatnonzero(over).tolist())

    def edited(self, removed: Iterable[str], added: Sequence[Row]) -> NamespaceIndex:
        """Without the living ids of `removed`, with the rows of `added` (of ids new or removed)."""
        dead: dict[int, list[int]] = {}
        for fact_id in removed:
            position, row = self._locate(fact_id)
            dead.setdefault(position, []).append(row)
        parts = list(self.parts)
        for position, rows in dead.items():
            parts[position] = parts[position].without(rows)
        tail = [parts.pop()] if parts and self._rebuilds_tail(added, dead) else []
        delta = _build(tail, added)
        edited = NamespaceIndex(tuple(part for part in (*parts, delta) if part.live))
        return edited if len(edited.parts) <= MOST_PARTS else edited.merged(edited.merge_plan())

    def _rebuilds_tail(self, added: Sequence[Row], dead: dict[int, list[int]]) -> bool:
        small = len(self.parts[-1].segment) < DELTA_ROWS
        return small and (bool(added) or len(self.parts) - 1 in dead)

    def _locate(self, fact_id: str) -> tuple[int, int]:
        for position in reversed(range(len(self.parts))):
            row = self.parts[position].row(fact_id)
            if row is not None:
                return position, row
        raise KeyError(fact_id)

    def merge_plan(self) -> tuple[Part, ...]:
        """The neighbouring parts that are worth merging now; empty when none are.

        Each part is kept larger than the sum of the ones after it, so a row is copied O(log n) times in all,
        and a part of which a quarter is dead is rewritten. The growing last part is left out: edits replace
        it.
        """
        sealed = self.parts
        if sealed and len(sealed[-1].segment) < DELTA_ROWS:
            sealed = sealed[:-1]
        after = sum(part.live for part in sealed)
        for position, part in enumerate(sealed):
            after -= part.live
            sparse = part.live < 0.75 * len(part.segment)
            if sparse or part.live < after:
                return sealed[position:]
        return ()

    def merged(self, plan: Sequence[Part]) -> NamespaceIndex:
        """With the parts of its plan made one."""
        result = self.replaced(plan, merge(plan)) if plan else self
        assert result is not None, "an index holds its own parts"
        return result

    def replaced(self, plan: Sequence[Part], merged: Part) -> NamespaceIndex | None:
        """With the planned parts replaced by `merged`, which a past state of them was merged into.

        Rows that died since stay dead. None when another merge took the planned parts away.
        """
        segments = [part.segment for part in self.parts]
        first = next((n for n, segment in enumerate(segments) if segment is plan[0].segment), None)
        if first is None:
            return None
        current = self.parts[first : first + len(plan)]
        if [id(part.segment) for part in current] != [id(part.segment) for part in plan]:
            return None
        dead = list(_died(plan, current, merged.segment))
        part = merged.without(dead) if dead else merged
        kept = (*self.parts[:first], part, *self.parts[first + len(plan) :])
        return NamespaceIndex(tuple(part for part in kept if part.live))


def merge(plan: Sequence[Part]) -> Part:
    """The living rows of some parts as one part (slow for large ones: runs outside every lock)."""
    return _build(plan, ())


def _died(plan: Sequence[Part], current: Sequence[Part], merged: Segment) -> Iterator[int]:
    """Rows of `merged` whose facts died while it was made."""
    for before, after in zip(plan, current, strict=True):
        if before.live == after.live:
            continue
        for row in np.flatnonzero(before.mask() & ~after.mask()).tolist():
            merged_row = row_of(merged, before.segment.ids[row])
            assert merged_row is not None, "a living row was lost by a merge"
            yield merged_row


def _build(parts: Sequence[Part], added: Sequence[Row]) -> Part:
    """One flat part of the living rows of `parts` and of `added`."""
    ids: list[str] = []
    vectors: list[Vectors] = []
    expires: list[Times] = []
    for part in parts:
        rows = np.flatnonzero(part.mask())
        ids.extend(part.segment.ids[row] for row in rows.tolist())
        vectors.append(part.segment.vectors(rows))
        expires.append(part.segment.expires[rows])
    if added:
        ids.extend(row.id for row in added)
        vectors.append(np.stack([row.vector for row in added]))
        expires.append(np.array([row.expires_at for row in added], dtype=np.float64))
    if not ids:
        return Part(FlatSegment((), np.empty((0, 1), np.float32), np.empty(0)), None, 0, math.inf)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    segment = FlatSegment([ids[row] for row in order], np.concatenate(vectors)[order], np.concatenate(expires)[order])
    return Part.of(segment)
