"""Which rows of a segment hold which terms: columns that never change once built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kb.index.impacts import Counts, Impacts, Rows
from kb.index.spellings import Offsets, Spellings, chosen
from kb.index.terms import key_of, spelling_of, words_of

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The terms of `len(lengths)` rows. Those of term i are rows[starts[i]:starts[i + 1]], ascending."""

    keys: Keys
    """uint64 [terms], ascending: keys of the terms."""
    starts: Offsets
    """int64 [terms + 1]"""
    rows: Rows
    """int32 [postings]"""
    counts: Counts
    """int32 [postings]: how often the row has the term."""
    lengths: Counts
    """int32 [rows]: terms of the row, repeats included."""
    spellings: Spellings
    """Of each term."""
    impacts: Impacts
    """Of each posting."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Postings:
        """Of rows with these texts."""
        places: dict[str, int] = {}
        found: list[int] = []
        lengths: list[int] = []
        for text in texts:
            words = words_of(text)
            lengths.append(len(words))
            found += [places.setdefault(word, len(places)) for word in words]
        words_by_place = np.array(found, dtype=np.int64)
        keys = np.fromiter(map(key_of, places), np.uint64, len(places))
        rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        spellings = Spellings.of(list(map(spelling_of, places)))
        ones = np.ones(len(found), np.int32)
        return _grouped(keys[words_by_place], rows, ones, np.array(lengths, np.int32), keys, [spellings])

    def place(self, key: int) -> int | None:
        """Where the term is, if any row has it."""
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        return place if place < len(self.keys) and self.keys[place] == key else None

    def of_term(self, place: int) -> slice:
        """Where its postings lie."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))


def joined(parts: Sequence[tuple[Postings, Rows]], count: int) -> Postings:
    """One of `count` rows: each part (at least one) comes with where each of its rows goes, -1 for those left out."""
    lengths = np.zeros(count, np.int32)
    keys, rows, counts = [], [], []
    for part, moved in parts:
        lengths[moved[moved >= 0]] = part.lengths[moved >= 0]
        kept = moved[part.rows] >= 0
        keys.append(np.repeat(part.keys, np.diff(part.starts))[kept])
        rows.append(moved[part.rows][kept])
        counts.append(part.counts[kept])
    of_keys, spellings = np.concatenate([part.keys for part, _ in parts]), [part.spellings for part, _ in parts]
    return _grouped(np.concatenate(keys), np.concatenate(rows), np.concatenate(counts), lengths, of_keys, spellings)


def _grouped(
    keys: Keys, rows: Rows, counts: Counts, lengths: Counts, of_keys: Keys, spellings: Sequence[Spellings]
) -> Postings:
    """Postings in any order, repeats added up; `spellings` are those of `of_keys`, which may repeat or be unused."""
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    firsts = np.flatnonzero(_changes(keys) | _changes(rows))
    counts = np.add.reduceat(counts[order], firsts, dtype=np.int32) if len(firsts) else counts
    keys, rows = keys[firsts], rows[firsts]
    starts = np.flatnonzero(_changes(keys))
    terms = keys[starts]
    first = np.argsort(of_keys, kind="stable")
    places = first[np.searchsorted(of_keys, terms, sorter=first)]
    impacts = Impacts(rows, counts, lengths)
    return Postings(terms, np.append(starts, len(keys)), rows, counts, lengths, chosen(spellings, places), impacts)


def _changes(values: NDArray[np.uint64] | Rows) -> NDArray[np.bool_]:
    """Where a value differs from the one before; the first does."""
    changes = np.ones(len(values), np.bool_)
    changes[1:] = values[1:] != values[:-1]
    return changes
