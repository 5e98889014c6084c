"""A segment made of the living rows of others, and of rows that are added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kb.facts import JSON
from kb.index import attributes
from kb.index.attributes import Attributes
from kb.index.digests import Digests, digest_of, stacked
from kb.index.ids import Ids, names_of
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
    metadata: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def digest(self) -> bytes:
        """Of all but the id and the vector, which follows from the text."""
        return digest_of(self.text, self.expires_at, self.metadata)


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The rows of a segment to be, in the order of their ids."""

    ids: Ids
    expires: Times
    digests: Digests
    postings: Postings
    attributes: Attributes
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
        names = [part.segment.ids.names[rows] for part, rows in zip(parts, kept, strict=True)]
        names.append(names_of(row.id for row in added))
        digests = [part.segment.digests[rows] for part, rows in zip(parts, kept, strict=True)]
        digests.append(stacked(row.digest for row in added))
        expires = [part.segment.expires[rows] for part, rows in zip(parts, kept, strict=True)]
        expires.append(np.array([row.expires_at for row in added], dtype=np.float64))
        unordered = np.concatenate(names)
        order = np.argsort(unordered, kind="stable")  # which lets other threads go on, unlike Python's own
        columns = _columns(parts, kept, added, order)
        by_row = np.concatenate(expires)[order], np.concatenate(digests)[order]
        return cls(Ids(unordered[order]), *by_row, *columns, parts, kept, added, order)

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
        columns = self.expires, self.postings, self.attributes
        return QuantizedSegment(self.ids, matrix, *columns, encoded(matrix), self.digests)

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
    if not len(merged.ids):
        nothing = FlatSegment(merged.ids, np.empty((0, 1), np.float32), np.empty(0), Postings.of(()), Attributes.of(()))
        return Part.of(nothing)
    columns = merged.expires, merged.postings, merged.attributes, merged.digests
    return Part.of(FlatSegment(merged.ids, merged.matrix(), *columns))


def _columns(
    parts: Sequence[Part], kept: Sequence[NDArray[np.int64]], added: Sequence[Row], order: NDArray[np.int64]
) -> tuple[Postings, Attributes]:
    """Of the rows `kept` of each part, then of `added`, put in this order."""
    if not parts:
        in_order = [added[place] for place in order.tolist()]
        return Postings.of(row.text for row in in_order), Attributes.of(row.metadata for row in in_order)
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    terms: list[tuple[Postings, Rows]] = []
    values: list[tuple[Attributes, Rows]] = []
    start = 0
    for part, rows in zip(parts, kept, strict=True):
        moves = np.full(len(part.segment), -1, np.int32)
        moves[rows] = places[start : start + len(rows)]
        terms.append((part.segment.postings, moves))
        values.append((part.segment.attributes, moves))
        start += len(rows)
    if added:
        terms.append((Postings.of(row.text for row in added), places[start:]))
        values.append((Attributes.of(row.metadata for row in added), places[start:]))
    return joined(terms, len(order)), attributes.joined(values, len(order))
