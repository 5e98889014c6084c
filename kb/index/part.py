"""A segment of an index and which of its rows are alive: immutable."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kb.filters import Filter
from kb.index.lexical import Living, Totals
from kb.index.segment import Bitmap, Segment, row_of


@dataclass(frozen=True, slots=True)
class Part:
    """A segment and which of its rows are alive."""

    segment: Segment
    alive: Bitmap | None
    """One bit per row, lowest first; None: all alive."""
    live: int
    next_expiry: float
    """Earliest expiry among the living rows."""
    terms: int
    """Of the texts of the living rows, repeats included."""

    @classmethod
    def of(cls, segment: Segment) -> Part:
        """A part whose rows are all alive."""
        terms = int(segment.postings.lengths.sum())
        return cls(segment, None, len(segment), float(segment.expires.min(initial=math.inf)), terms)

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
        return self._unpacked(self.alive)

    def selected(self, now: float) -> Bitmap | None:
        """The rows that a search at `now` may return."""
        if self.next_expiry > now:
            return self.alive
        return np.packbits(self.mask() & (self.segment.expires > now), bitorder="little")

    def passing(self, selected: Bitmap | None, where: Filter) -> Bitmap:
        """Those of the rows that were `selected` whose metadata satisfies the filter."""
        passing = np.packbits(self.segment.attributes.matching(where), bitorder="little")
        return passing if selected is None else passing & selected

    def living(self, selected: Bitmap | None, wanted: Bitmap | None = None) -> Living:
        """The rows that were `selected`, for the lexical half; `wanted`: those of them that may be found."""
        mask = None if selected is None else self._unpacked(selected)
        counted = Totals(self.live, self.terms) if selected is self.alive else None
        return Living(self.segment.postings, mask, None if wanted is None else self._unpacked(wanted), counted)

    def without(self, rows: Sequence[int]) -> Part:
        """This part with some living rows dead."""
        mask = self.mask().copy()
        mask[list(rows)] = False
        next_expiry = self.next_expiry
        if next_expiry < math.inf:
            next_expiry = float(self.segment.expires[mask].min(initial=math.inf))
        alive = np.packbits(mask, bitorder="little")
        terms = self.terms - int(self.segment.postings.lengths[list(rows)].sum())
        return replace(self, alive=alive, live=self.live - len(rows), next_expiry=next_expiry, terms=terms)

    def living_ids(self, after: str, where: Filter | None = None) -> Iterator[str]:
        """Ids of living rows greater than `after` that pass the filter, ascending."""
        ids = self.segment.ids
        start = bisect_right(ids, after)
        rows: Iterable[int] = range(start, len(ids))
        if where is not None:
            passing = self.segment.attributes.rows_matching(where)
            rows = passing[np.searchsorted(passing, start) :].tolist()
        for row in rows:
            if self.is_alive(row):
                yield ids[row]

    def _unpacked(self, bits: Bitmap) -> NDArray[np.bool_]:
        """bool [rows] of a bitmap."""
        return np.unpackbits(bits, count=len(self.segment), bitorder="little").view(np.bool_)
