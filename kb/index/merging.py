"""A segment made of the living rows of others, and of rows that are added."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kb.index.impacts import Rows
from kb.index.part import Part
from kb.index.postings import Postings, joined
from kb.index.quantized import QuantizedSegment, encoded
from kb.index.segment import FlatSegment, Times, Vectors

_CHUNK: Final = 1 << 14
"""Vectors that are copied at once."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be added: vector is float32 [dim], expires_at unix seconds or infinity."""

    id: str
    vector: Vectors
    text: str
    expires_at: float


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The rows of a segment to be, in the order of their ids."""

    ids: list[str]
    expires: Times
    postings: Postings
    _sources: Sequence[Part]
    _kept: Sequence[NDArray[np.int64]]
    """Per source: its rows."""
    _added: Sequence[Row]
    _order: NDArray[np.int64]
    """Of the rows: which of the kept ones, then of those added, comes where."""

    @classmethod
    def of(cls, parts: Sequence[Part], added: Sequence[Row] = ()) -> Merged:
        """The living rows of `parts` and those of `added`."""
        kept = [np.flatnonzero(part.mask()) for part in parts]
        ids = [part.segment.ids[row] for part, rows in zip(parts, kept, strict=True) for row in rows.tolist()]
        ids += [row.id for row in added]
        expires = [part.segment.expires[rows] for part, rows in zip(parts, kept, strict=True)]
        expires.append(np.array([row.expires_at for row in added], dtype=np.float64))
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        postings = _postings(parts, kept, added, order)
        in_order = [ids[row] for row in order]
        return cls(in_order, np.concatenate(expires)[order], postings, parts, kept, added, order)

    def vectors(self) -> Iterator[Vectors]:
        """float32 [some, dim], in order, a bounded number at a time."""
        for start in range(0, len(self._order), _CHUNK):
            yield self._gathered(self._order[start : start + _CHUNK])

    def matrix(self) -> Vectors:
        """float32 [rows, dim]"""
        return np.concatenate(list(self.vectors()))

    def quantized(self) -> QuantizedSegment:
        """A large segment whose vectors stay in memory."""
        matrix = self.matrix()
        return QuantizedSegment(self.ids, matrix, self.expires, self.postings, encoded(matrix), None)

    @property
    def dimension(self) -> int:
        """Of the vectors, of which there is at least one."""
        return int(self._gathered(self._order[:1]).shape[1])

    def _gathered(self, places: NDArray[np.int64]) -> Vectors:
        found: list[tuple[NDArray[np.bool_], Vectors]] = []
        start = 0
        for part, rows in zip(self._sources, self._kept, strict=True):
            here = (places >= start) & (places < start + len(rows))
            if here.any():
                found.append((here, part.segment.vectors(rows[places[here] - start])))
            start += len(rows)
        here = places >= start
        if here.any():
            found.append((here, np.stack([self._added[place - start].vector for place in places[here].tolist()])))
        gathered = np.empty((len(places), found[0][1].shape[1]), np.float32)
        for where, vectors in found:
            gathered[where] = vectors
        return gathered


def built(parts: Sequence[Part], added: Sequence[Row] = ()) -> Part:
    """One flat part of the living rows of `parts` and of `added` (slow for large ones)."""
    merged = Merged.of(parts, added)
    if not merged.ids:
        return Part(FlatSegment((), np.empty((0, 1), np.float32), np.empty(0), Postings.of(())), None, 0, math.inf)
    return Part.of(FlatSegment(merged.ids, merged.matrix(), merged.expires, merged.postings))


def _postings(
    parts: Sequence[Part], kept: Sequence[NDArray[np.int64]], added: Sequence[Row], order: NDArray[np.int64]
) -> Postings:
    """Of the rows `kept` of each part, then of `added`, put in this order."""
    if not parts:
        return Postings.of(added[place].text for place in order.tolist())
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    moved: list[tuple[Postings, Rows]] = []
    start = 0
    for part, rows in zip(parts, kept, strict=True):
        moves = np.full(len(part.segment), -1, np.int32)
        moves[rows] = places[start : start + len(rows)]
        moved.append((part.segment.postings, moves))
        start += len(rows)
    if added:
        moved.append((Postings.of(row.text for row in added), places[start:]))
    return joined(moved, len(order))
