"""The index of one namespace, dense and lexical: a few immutable segments, newest last, and bitmaps of their
living rows.

An edit makes a new `NamespaceIndex` that shares every segment with the old one, except the small last
segment, which is rebuilt. Merging keeps the number of segments logarithmic; it too only makes new objects. So
a search needs no lock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from kb.facts import SearchMethod
from kb.filters import Filter
from kb.index.merging import Row, built
from kb.index.part import Part
from kb.index.quantized import worth_quantizing
from kb.index.search import Found, search
from kb.index.segment import FlatSegment, Segment, Vectors, row_of
from kb.index.terms import Term

# Rows below which the last segment is rebuilt by an edit (copying 256 × 384 floats takes tens of
# microseconds).
DELTA_ROWS = 256
# And values of their metadata: facts may have hundreds each, and joining 8,192 takes 5 ms.
DELTA_VALUES = 8192


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

    def search(
        self,
        query: Vectors,
        k: int,
        now: float,
        question: Sequence[Term] = (),
        method: SearchMethod = "hybrid",
        where: Filter | None = None,
    ) -> list[Found]:
        """The k best living rows at `now` that pass the filter, as `kb.index.search` has it."""
        return search(self.parts, query, k, now, question, method, where)

    def ids(self, after: str = "", where: Filter | None = None) -> Iterator[str]:
        """Living ids greater than `after` that pass the filter, ascending."""
        return heapq.merge(*(part.living_ids(after, where) for part in self.parts))

    def values(self, field: str, after: str = "") -> Iterator[str]:
        """Distinct strings greater than `after` that a field has, ascending; of dead rows, too."""
        found = heapq.merge(*(part.segment.attributes.strings(field, after) for part in self.parts))
        return (value for value, _ in groupby(found))

    def expired(self, now: float) -> Iterator[str]:
        """Living ids whose time is over at `now`."""
        for part in self.parts:
            if part.next_expiry <= now:
                over = part.mask() & (part.segment.expires <= now)
                yield from part.segment.ids.at(np.flatnonzero(over))

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
        delta = built(tail, added)
        return NamespaceIndex(tuple(part for part in (*parts, delta) if part.live))

    def _rebuilds_tail(self, added: Sequence[Row], dead: dict[int, list[int]]) -> bool:
        return _is_growing(self.parts[-1]) and (bool(added) or len(self.parts) - 1 in dead)

    def _locate(self, fact_id: str) -> tuple[int, int]:
        for position in reversed(range(len(self.parts))):
            row = self.parts[position].row(fact_id)
            if row is not None:
                return position, row
        raise KeyError(fact_id)

    def merge_plan(self, under_way: Sequence[Part] = (), patience: int = 1) -> tuple[Part, ...]:
        """The neighbouring parts that are worth merging now; empty when none are. `under_way`: those that somebody
        merges already; only what is newer is looked at.

        The parts after one have at most `patience` times its rows in all, so a row is copied O(log n) times: the less
        often, the more patience, which costs searches more parts. A part of which a quarter is dead is rewritten, and
        so is one too large to be flat. The growing last part is left out: edits replace it.
        """
        sealed = self.parts
        if sealed and _is_growing(sealed[-1]):
            sealed = sealed[:-1]
        if under_way:
            taken = {id(part.segment) for part in under_way}
            newer = next((n for n in reversed(range(len(sealed))) if id(sealed[n].segment) in taken), -1) + 1
            sealed = sealed[newer:]
        after = sum(part.live for part in sealed)
        for position, part in enumerate(sealed):
            after -= part.live
            sparse = part.live < 0.75 * len(part.segment)
            outgrown = worth_quantizing(part.live) and isinstance(part.segment, FlatSegment)
            if sparse or outgrown or patience * part.live < after:
                return sealed[position:]
        return ()

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


def _is_growing(part: Part) -> bool:
    """Whether an edit rebuilds it, if it is the last."""
    return len(part.segment) < DELTA_ROWS and len(part.segment.attributes.rows) < DELTA_VALUES


def _died(plan: Sequence[Part], current: Sequence[Part], merged: Segment) -> Iterator[int]:
    """Rows of `merged` whose facts died while it was made."""
    for before, after in zip(plan, current, strict=True):
        if before.live == after.live:
            continue
        for row in np.flatnonzero(before.mask() & ~after.mask()).tolist():
            merged_row = row_of(merged, before.segment.ids[row])
            assert merged_row is not None, "a living row was lost by a merge"
            yield merged_row
