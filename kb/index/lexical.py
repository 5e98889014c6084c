"""BM25 over the living rows of a namespace, whichever segments they lie in."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kb.index.impacts import Rows, Scores, rounded
from kb.index.postings import Postings
from kb.index.terms import Term

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

MOST_ALIKE = 8
"""So many words, the likest, are looked up for one that no row has."""
MOST_MISSPELLED = 8
"""So many words of a question may be misspelled: each is compared with every word there is."""

FEW = 4096
"""Of so few rows that may be found each is looked up among those that have a word."""
_SLACK = 1 + 1e-4
"""More than what sums of 32-bit numbers may be off by."""
_RARE = 512
"""Rows that the rare words of a question have together, at most."""
_BLOCK = 1024
"""Rows of which the best one is asked for first."""
_LOOKED_UP = 16
"""To look a row up in a list costs as much as to go through so many."""


class Totals(NamedTuple):
    """Of some rows."""

    rows: int
    terms: int
    """Repeats included."""


@dataclass(frozen=True, slots=True, eq=False)
class Living:
    """The rows of a segment that are searched."""

    postings: Postings
    mask: Mask | None
    """bool [rows]; None: all of them."""
    wanted: Mask | None = None
    """bool [rows]: of the living ones those that may be found; None: all. The others still say how rare words are."""
    counted: Totals | None = None
    """Of the living ones, where that is known."""
    dead: Rows = field(init=False)
    """Those that are not alive, ascending."""

    def __post_init__(self) -> None:
        dead = np.empty(0) if self.mask is None else np.flatnonzero(~self.mask)
        object.__setattr__(self, "dead", dead.astype(np.int32))

    @property
    def found(self) -> Mask | None:
        """bool [rows]: those that may be; None: all."""
        return self.mask if self.wanted is None else self.wanted

    @property
    def totals(self) -> Totals:
        """Of the living ones."""
        if self.counted is not None:
            return self.counted
        lengths = self.postings.lengths
        if self.mask is None:
            return Totals(len(lengths), int(lengths.sum()))
        return Totals(int(np.count_nonzero(self.mask)), int(lengths[self.mask].sum()))

    def frequency(self, key: int) -> int:
        """How many of them have the term."""
        rows = self.postings.rows[self.where(key)]
        if self.mask is None:
            return len(rows)
        if len(self.dead) * _LOOKED_UP < len(rows):
            return len(rows) - int(np.count_nonzero(_among(self.dead, rows)))
        return int(np.count_nonzero(self.mask[rows]))

    def where(self, key: int) -> slice:
        """Where the postings of a term lie, those of dead rows too."""
        place = self.postings.place(key)
        return slice(0, 0) if place is None else self.postings.of_term(place)


class Matched(NamedTuple):
    """A word of a question in a part."""

    weight: float
    rows: Rows
    """Those that have it, ascending, dead ones too."""
    impacts: Callable[[Numbers | None], Scores]
    """Of those at some places among them; None: of all."""
    bound: float
    """No impact is greater."""

    def has(self, rows: Numbers) -> Mask:
        """Which of these rows have it."""
        return _among(rows.astype(np.int32), self.rows)

    def places(self, rows: Numbers) -> Numbers:
        """Where these rows are among those that have it, if they do."""
        return _places(rows.astype(np.int32), self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """What a question has to do with the rows of a part. Of rows that are dead or not wanted both numbers are
    0.

    Sums are of 32-bit numbers in the order of `terms`, wherever they are made, so that equal rows tie exactly.
    """

    part: Living
    terms: Sequence[Matched]
    """The rarest first."""
    mass: float
    """The idf of all of the question's words: the least upper bound of a score, or nearly."""

    def scores(self) -> Scores:
        """BM25 of every row, not yet divided by `mass`."""
        scores = np.zeros(len(self.part.postings.lengths), np.float32)
        for term in self.terms:
            np.add.at(scores, term.rows, term.weight * term.impacts(None))  # twice as fast as +=
        if self.part.wanted is not None:
            return scores * self.part.wanted
        scores[self.part.dead] = 0
        return scores

    def best(self, count: int) -> Numbers:
        """Rows of the `count` greatest scores above 0, ties by row."""
        found = self.part.found
        if found is not None and np.count_nonzero(found) <= FEW:
            rows: Numbers | None = np.flatnonzero(found)
        else:
            rows = self._rare(count)
        if rows is not None:
            return _cut(rows, self._sums(rows), count)
        of_all = self.scores()
        rows = _contenders(of_all, count)
        return _cut(rows, of_all[rows], count)

    def of(self, rows: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """BM25 and the share of the question that is covered, in [0, 1].

        Several words alike one of the question may all be in one row: it still covers no more than that word.
        """
        covered = np.zeros(len(rows))
        for term in self.terms:
            covered += np.where(term.has(rows), term.weight, 0.0)
        found = 1.0 if self.part.found is None else self.part.found[rows]
        mass = self.mass or 1.0
        return np.minimum(self._sums(rows) / mass, 1.0) * found, np.minimum(covered / mass, 1.0) * found

    def _rare(self, count: int) -> Numbers | None:
        """Rows, ascending, with a rare word, if enough of them score more than any row could by the other words alone
        (MaxScore: Turtle and Flood, 1995): then those words' rows need not be gone through."""
        rare, looked_at = 0, 0
        while rare < len(self.terms) and looked_at + len(self.terms[rare].rows) <= _RARE:
            looked_at += len(self.terms[rare].rows)
            rare += 1
        rows = np.concatenate([np.empty(0, np.int32), *(term.rows for term in self.terms[:rare])])
        if len(rows) < count:
            return None
        found = np.unique(self._findable(rows)).astype(np.int64)
        others = float(sum(term.weight * term.bound for term in self.terms[rare:]))
        return found if _greatest(self._sums(found), count) > others * _SLACK else None

    def _findable(self, rows: Rows) -> Rows:
        return rows if self.part.found is None else rows[self.part.found[rows]]

    def _sums(self, rows: Numbers) -> Scores:
        """As `scores`, of some rows that may be found."""
        scores = np.zeros(len(rows), np.float32)
        for term in self.terms:
            has = term.has(rows)
            scores[has] += term.weight * term.impacts(term.places(rows[has]))
        return scores


def _cut(rows: Numbers, scores: Scores, count: int) -> Numbers:
    """Of ascending `rows` those with the `count` greatest scores above 0, ties by row."""
    rows, scores = rows[scores > 0], scores[scores > 0]
    if len(rows) <= count:
        return rows
    least = np.partition(scores, -count)[-count]
    above, tied = rows[scores > least], rows[scores == least]
    return np.concatenate((above, tied[: count - len(above)]))


class Corpus:
    """The living rows of some segments, and what BM25 must know of them all."""

    def __init__(self, parts: Sequence[Living]) -> None:
        self._parts = parts
        totals = [part.totals for part in parts]
        self._count = sum(one.rows for one in totals)
        self._mean_length = rounded(sum(one.terms for one in totals) / max(self._count, 1))

    def relevances(self, question: Iterable[Term]) -> list[Relevance]:
        """For each part. No number depends on how rows are distributed over parts, nor on rows that are dead."""
        terms: list[tuple[float, int]] = []
        mass = 0.0
        misspelled = 0
        for term in question:
            frequency = self._frequency(term.key)
            mass += self._idf(frequency)
            if frequency:
                terms.append((self._idf(frequency), term.key))
            elif term.spelling and misspelled < MOST_MISSPELLED:
                misspelled += 1
                terms += self._alike(term)
        terms.sort(key=lambda term: (-term[0], term[1]))  # the rarest first, whatever the parts
        return [Relevance(part, self._matched(part, terms), mass) for part in self._parts]

    def _matched(self, part: Living, terms: Iterable[tuple[float, int]]) -> list[Matched]:
        bound = part.postings.impacts.bound(self._mean_length)
        places = [(weight, part.where(key)) for weight, key in terms]
        return [
            Matched(weight, part.postings.rows[place], self._impacts(part.postings, place), bound)
            for weight, place in places
        ]

    def _impacts(self, postings: Postings, term: slice) -> Callable[[Numbers | None], Scores]:
        def of(places: Numbers | None) -> Scores:
            if places is None:
                return postings.impacts.of_term(self._mean_length, term)
            return postings.impacts.of(self._mean_length, term.start + places)

        return of

    def _idf(self, frequency: int) -> float:
        return math.log(1 + (self._count - frequency + 0.5) / (frequency + 0.5))

    def _frequency(self, key: int) -> int:
        return sum(part.frequency(key) for part in self._parts)

    def _alike(self, term: Term) -> Iterator[tuple[float, int]]:
        """Words that rows do have, the likest first, each counting for as much as it is like the one asked for."""
        alike: dict[int, float] = {}
        for part in self._parts:
            keys = part.postings.keys
            alike |= {int(keys[place]): likeness for place, likeness in part.postings.spellings.alike(term.spelling)}
        candidates = ((likeness, key, self._frequency(key)) for likeness, key in _best_first(alike))
        living = (one for one in candidates if one[2])
        for likeness, key, frequency in islice(living, MOST_ALIKE):
            yield likeness * self._idf(frequency), key


def _greatest(scores: Scores, count: int) -> float:
    """The `count`-th greatest; 0 if there are fewer."""
    return float(np.partition(scores, -count)[-count]) if len(scores) >= count else 0.0


def _contenders(scores: Scores, count: int) -> Numbers:
    """Rows, ascending, among which are the `count` greatest scores above 0, ties by row.

    The best rows of `count` blocks have so much as the least of them. Where more blocks have just that much, so have
    rows in the first `count` of these, which come before those in the others.
    """
    if not len(scores):
        return np.empty(0, np.int64)
    best = np.maximum.reduceat(scores, np.arange(0, len(scores), _BLOCK))
    least = max(float(np.finfo(np.float32).tiny), _greatest(best, count))
    blocks = np.union1d(np.flatnonzero(best > least), np.flatnonzero(best == least)[:count])
    rows: Numbers = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    rows = rows[: np.searchsorted(rows, len(scores))]
    return rows[scores[rows] >= least]


def _among(rows: Rows, others: Rows) -> Mask:
    """Which of `rows` are among `others`, which ascend."""
    return others[_places(rows, others)] == rows if len(others) else np.zeros(len(rows), np.bool_)


def _places(rows: Rows, others: Rows) -> Numbers:
    """Where `rows` are among `others`, if they are."""
    return np.minimum(np.searchsorted(others, rows), max(len(others) - 1, 0))


def _best_first(alike: dict[int, float]) -> Iterator[tuple[float, int]]:
    heap = [(-likeness, key) for key, likeness in alike.items()]
    heapq.heapify(heap)
    while heap:
        likeness, key = heapq.heappop(heap)
        yield -likeness, key
