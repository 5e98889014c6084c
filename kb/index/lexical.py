"""BM25 over the living rows of a namespace, whichever segments they lie in."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kb.index.postings import Counts, Postings, Rows
from kb.index.terms import Term

K1 = 1.2
B = 0.75
"""As in Lucene."""
MOST_ALIKE = 8
"""So many words, the likest, are looked up for one that no row has."""
MOST_MISSPELLED = 8
"""So many words of a question may be misspelled: each is compared with every word there is."""

FEW = 16
"""Where a term has so many times more rows than are wanted, these are looked up in it rather than it gone through."""

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Match(NamedTuple):
    """The rows of a part that have a term."""

    frequency: int
    """How many living ones do."""
    rows: Rows
    """Those of them that are wanted."""
    counts: Counts
    """How often they have it."""


@dataclass(frozen=True, slots=True, eq=False)
class Living:
    """The rows of a segment that are searched."""

    postings: Postings
    mask: Mask | None
    """bool [rows]; None: all of them."""
    wanted: Mask | None = None
    """bool [rows]: of the living ones those that may be found; None: all. The others still say how rare words are."""
    wanted_rows: Rows | None = None
    """int32, ascending: the same."""

    @classmethod
    def among(cls, postings: Postings, mask: Mask | None, wanted: Mask) -> Living:
        """Of which only some may be found."""
        return cls(postings, mask, wanted, np.flatnonzero(wanted).astype(np.int32))

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.postings.lengths) if self.mask is None else int(self.mask.sum())

    @property
    def length(self) -> int:
        """Terms of them all, repeats included."""
        lengths = self.postings.lengths
        return int((lengths if self.mask is None else lengths[self.mask]).sum())

    def match(self, key: int) -> Match:
        """Rows with the term."""
        place = self.postings.place(key)
        if place is None:
            return Match(0, self.postings.rows[:0], self.postings.counts[:0])
        rows, counts = self.postings.of_term(place)
        alive = None if self.mask is None else self.mask[rows]
        frequency = len(rows) if alive is None else int(np.count_nonzero(alive))
        if self.wanted_rows is not None and len(self.wanted_rows) * FEW < len(rows):
            places = np.minimum(np.searchsorted(rows, self.wanted_rows), len(rows) - 1)
            there = rows[places] == self.wanted_rows
            return Match(frequency, self.wanted_rows[there], counts[places[there]])
        kept = alive if self.wanted is None else self.wanted[rows]
        return Match(frequency, rows, counts) if kept is None else Match(frequency, rows[kept], counts[kept])


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """What a question has to do with the rows of a part. Of rows that are dead or not wanted both numbers are 0."""

    scores: Scores
    """BM25 of each row."""
    covered: Scores
    """The idf of the question's words that each row has."""
    mass: float
    """The idf of all of the question's words: the least upper bound of both, or nearly."""

    def best(self, count: int) -> NDArray[np.int64]:
        """Rows of the `count` greatest scores above 0, ties by row."""
        rows = np.flatnonzero(self.scores > 0)
        if len(rows) > count:
            found = self.scores[rows]
            least = np.partition(found, -count)[-count]
            above, tied = rows[found > least], rows[found == least]
            rows = np.concatenate((above, tied[: count - len(above)]))
        return rows

    def of(self, rows: NDArray[np.int64]) -> tuple[Scores, Scores]:
        """BM25 and the share of the question that is covered, in [0, 1].

        Several words alike one of the question may all be in one row: it still covers no more than that word.
        """
        if not self.mass:
            return np.zeros(len(rows)), np.zeros(len(rows))
        return np.minimum(self.scores[rows] / self.mass, 1.0), np.minimum(self.covered[rows] / self.mass, 1.0)


class _Weighted(NamedTuple):
    """What is added to the rows that have a term."""

    weight: float
    matches: Sequence[Match]
    """Per part."""


class Corpus:
    """The living rows of some segments, and what BM25 must know of them all."""

    def __init__(self, parts: Sequence[Living]) -> None:
        self._parts = parts
        self._count = sum(part.size for part in parts)
        self._mean_length = sum(part.length for part in parts) / max(self._count, 1)

    def relevances(self, question: Iterable[Term]) -> list[Relevance]:
        """For each part. No number depends on how rows are distributed over parts, nor on rows that are dead."""
        rows = [len(part.postings.lengths) for part in self._parts]
        scores, covered = [np.zeros(count) for count in rows], [np.zeros(count) for count in rows]
        mass = 0.0
        misspelled = 0
        for term in question:
            matches = self._matches(term.key)
            frequency = _frequency(matches)
            mass += self._idf(frequency)
            if frequency:
                self._add(_Weighted(self._idf(frequency), matches), scores, covered)
            elif term.spelling and misspelled < MOST_MISSPELLED:
                misspelled += 1
                for one in self._alike(term):
                    self._add(one, scores, covered)
        return [Relevance(*columns, mass) for columns in zip(scores, covered, strict=True)]

    def _idf(self, frequency: int) -> float:
        return math.log(1 + (self._count - frequency + 0.5) / (frequency + 0.5))

    def _matches(self, key: int) -> list[Match]:
        return [part.match(key) for part in self._parts]

    def _add(self, term: _Weighted, scores: Sequence[Scores], covered: Sequence[Scores]) -> None:
        for part, (_, rows, counts), score, cover in zip(self._parts, term.matches, scores, covered, strict=True):
            if len(rows):
                norm = K1 * (1 - B + B * part.postings.lengths[rows] / self._mean_length)
                score[rows] += term.weight * (counts / (counts + norm))
                cover[rows] += term.weight

    def _alike(self, term: Term) -> Iterator[_Weighted]:
        """Words that rows do have, the likest first, each counting for as much as it is like the one asked for."""
        alike: dict[int, float] = {}
        for part in self._parts:
            keys = part.postings.keys
            alike |= {int(keys[place]): likeness for place, likeness in part.postings.spellings.alike(term.spelling)}
        candidates = ((likeness, self._matches(key)) for likeness, key in _best_first(alike))
        living = ((likeness, matches) for likeness, matches in candidates if _frequency(matches))
        for likeness, matches in islice(living, MOST_ALIKE):
            yield _Weighted(likeness * self._idf(_frequency(matches)), matches)


def _best_first(alike: dict[int, float]) -> Iterator[tuple[float, int]]:
    heap = [(-likeness, key) for key, likeness in alike.items()]
    heapq.heapify(heap)
    while heap:
        likeness, key = heapq.heappop(heap)
        yield -likeness, key


def _frequency(matches: Sequence[Match]) -> int:
    return sum(match.frequency for match in matches)
