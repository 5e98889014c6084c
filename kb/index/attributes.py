"""Which rows of a segment hold which metadata: columns that never change once built.

Every value, at whatever depth of the metadata, is a pair of its field and itself; lists are left out of the path, so
that a field may have several values in a row. Pairs are sorted, so that a range of numbers is a range of pairs.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kb.facts import JSON
from kb.filters import Every, Exists, Filter, Not, OneOf, Ordered, Scalar, Some
from kb.index.impacts import Rows
from kb.index.spellings import Offsets

Mask = NDArray[np.bool_]
Pair: TypeAlias = "tuple[str, int, Any]"
"""Field, kind, value: of one kind all values can be compared."""

_SORTED_AT_ONCE: Final = 16_384
"""Pairs: a few milliseconds."""
_PRESENT: Final = -1
"""Kind of the pair that says that a field is there."""
_NULL: Final = 0
_BOOLEAN: Final = 1
_NUMBER: Final = 2
_STRING: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """The metadata of `count` rows. The rows of pair i are rows[starts[i]:starts[i + 1]], ascending and distinct."""

    pairs: Sequence[Pair]
    """Ascending and distinct."""
    starts: Offsets
    """int64 [pairs + 1]"""
    rows: Rows
    """int32"""
    count: int

    @classmethod
    def of(cls, metadata: Iterable[Mapping[str, JSON]]) -> Attributes:
        """Of rows with this metadata."""
        places: dict[Pair, int] = {}
        found: list[int] = []
        lengths: list[int] = []
        for one in metadata:
            own: set[Pair] = set()
            for name, value in one.items():
                _collect(value, name, own)
            lengths.append(len(own))
            found += [places.setdefault(pair, len(places)) for pair in own]
        rows = np.repeat(np.arange(len(lengths), dtype=np.int32), np.array(lengths, np.int64))
        pairs = list(places)
        return _grouped(pairs, _in_order(pairs, ()), np.array(found, np.int64), rows, len(lengths))

    def matching(self, wanted: Filter) -> Mask:
        """bool [rows]: those whose metadata satisfies it."""
        match wanted:
            case OneOf(field, values):
                return self._mask(self._place(pair_of(field, value)) for value in values)
            case Exists(field):
                return self._mask([self._place((field, _PRESENT, 0))])
            case Ordered():
                return self._mask([self._range(wanted)])
            case Not(part):
                return ~self.matching(part)
            case Every(parts):
                result = np.ones(self.count, np.bool_)
                for part in parts:
                    result &= self.matching(part)
                return result
            case Some(parts):
                result = np.zeros(self.count, np.bool_)
                for part in parts:
                    result |= self.matching(part)
                return result

    def rows_matching(self, wanted: Filter) -> NDArray[np.int64] | Rows:
        """The same as rows, ascending. Those with a value are looked up, however many others there are."""
        if not isinstance(wanted, OneOf):
            return np.flatnonzero(self.matching(wanted))
        places = [self._place(pair_of(wanted.field, value)) for value in wanted.values]
        found = [self.rows[self.starts[place.start] : self.starts[place.stop]] for place in places]
        return np.unique(np.concatenate([np.empty(0, np.int32), *found]))

    def strings(self, field: str, after: str) -> Iterator[str]:
        """Those greater than `after` that the field has, ascending."""
        for place in range(bisect_right(self.pairs, (field, _STRING, after)), len(self.pairs)):
            name, kind, value = self.pairs[place]
            if (name, kind) != (field, _STRING):
                return
            yield value

    def _mask(self, places: Iterable[range]) -> Mask:
        mask = np.zeros(self.count, np.bool_)
        for place in places:
            mask[self.rows[self.starts[place.start] : self.starts[place.stop]]] = True
        return mask

    def _place(self, pair: Pair) -> range:
        place = bisect_left(self.pairs, pair)
        return range(place, place + int(place < len(self.pairs) and self.pairs[place] == pair))

    def _range(self, wanted: Ordered) -> range:
        field, kind, value = pair_of(wanted.field, wanted.value)
        # (field, kind) comes before every pair that begins with it, (field, kind + 1) after.
        first, last = bisect_left(self.pairs, (field, kind)), bisect_left(self.pairs, (field, kind + 1))
        pair = (field, kind, value)
        match wanted.order:
            case "gt":
                return range(bisect_right(self.pairs, pair), last)
            case "gte":
                return range(bisect_left(self.pairs, pair), last)
            case "lt":
                return range(first, bisect_left(self.pairs, pair))
            case "lte":
                return range(first, bisect_right(self.pairs, pair))


def joined(parts: Sequence[tuple[Attributes, Rows]], count: int) -> Attributes:
    """One of `count` rows: each part comes with where each of its rows goes, -1 for those left out."""
    places: dict[Pair, int] = {}
    found, rows = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    new: list[range] = []
    """Places that each part was the first to have: ascending pairs."""
    for part, moved in parts:
        known = len(places)
        own = np.fromiter((places.setdefault(pair, len(places)) for pair in part.pairs), np.int64, len(part.pairs))
        new.append(range(known, len(places)))
        kept = moved[part.rows] >= 0
        found.append(np.repeat(own, np.diff(part.starts))[kept])
        rows.append(moved[part.rows][kept])
    pairs = list(places)
    return _grouped(pairs, _in_order(pairs, new), np.concatenate(found), np.concatenate(rows), count)


def pair_of(field: str, value: Scalar) -> Pair:
    """How a value of a field is looked up."""
    if isinstance(value, str):
        return field, _STRING, value
    if isinstance(value, bool):
        return field, _BOOLEAN, value
    return (field, _NULL, 0) if value is None else (field, _NUMBER, value)


def _collect(value: JSON, field: str, pairs: set[Pair]) -> None:
    """Of a value in metadata, which is bounded in size and depth."""
    pairs.add((field, _PRESENT, 0))
    if isinstance(value, dict):
        for name, inner in value.items():
            _collect(inner, f"{field}.{name}", pairs)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, field, pairs)
    else:
        pairs.add(pair_of(field, value))


def _in_order(pairs: list[Pair], runs: Sequence[range]) -> Iterable[int]:
    """The places of all pairs; those of each run ascend, if there are runs. Sorting lets no other thread go on until it
    is done, which merging does."""
    if not runs or len(pairs) <= _SORTED_AT_ONCE:
        return sorted(range(len(pairs)), key=pairs.__getitem__)
    return heapq.merge(*runs, key=pairs.__getitem__)


def _grouped(pairs: list[Pair], order: Iterable[int], found: NDArray[np.int64], rows: Rows, count: int) -> Attributes:
    """`found` are places among `pairs`, distinct in any order; pairs that are not found are left out. `order`: all
    places, those of ascending pairs."""
    used = np.bincount(found, minlength=len(pairs)) if pairs else np.zeros(0, np.int64)
    held = used.tolist()
    kept = [place for place in order if held[place]]
    ranks = np.empty(len(pairs), np.int64)
    ranks[kept] = np.arange(len(kept))
    starts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(used[kept], out=starts[1:])
    sorting = np.lexsort((rows, ranks[found]))
    return Attributes([pairs[place] for place in kept], starts, rows[sorting], count)
