"""How the words of a segment are spelled, and which of them are spelled like another: for names with typing errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
Codes = NDArray[np.uint16]

LEAST_ALIKE: Final = 0.6
"""Likeness of two words (0 to 1) from which on one may be the other, misspelled."""


class Spellings:
    """Immutable. That of word i is codes[starts[i]:starts[i + 1]], as `kb.index.terms.spelling_of` has it."""

    def __init__(self, starts: Offsets, codes: Codes) -> None:
        self.starts = starts
        self.codes = codes
        order = np.argsort(codes, kind="stable")
        self._sorted = codes[order]
        # The words that have each of the sorted codes.
        self._words = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), self.lengths)[order]

    @classmethod
    def of(cls, spellings: Sequence[Sequence[int]]) -> Spellings:
        """Of words with these."""
        lengths = np.fromiter(map(len, spellings), np.int64, len(spellings))
        codes = np.fromiter((code for one in spellings for code in one), np.uint16, int(lengths.sum()))
        return cls(_starts(lengths), codes)

    @property
    def lengths(self) -> Offsets:
        """int64 [words]"""
        return np.diff(self.starts)

    def alike(self, spelling: Sequence[int]) -> Iterable[tuple[int, float]]:
        """Places of words, and their likeness to the one spelled like this: Dice's coefficient of their codes."""
        lefts = np.searchsorted(self._sorted, np.array(spelling, np.uint16))
        rights = np.searchsorted(self._sorted, np.array(spelling, np.uint16), side="right")
        found = [self._words[left:right] for left, right in zip(lefts, rights, strict=True)]
        shared = np.bincount(np.concatenate(found)) if found else np.zeros(0, np.int64)
        # With fewer codes in common even a word that has no others is not alike enough.
        places = np.flatnonzero(shared >= LEAST_ALIKE / (2 - LEAST_ALIKE) * len(spelling))
        likeness = 2 * shared[places] / (len(spelling) + self.lengths[places])
        enough = likeness >= LEAST_ALIKE
        return zip(places[enough].tolist(), likeness[enough].tolist(), strict=True)


def chosen(parts: Sequence[Spellings], places: Offsets) -> Spellings:
    """Those of the words at `places` of all parts put one behind the other."""
    starts = _starts(np.concatenate([part.lengths for part in parts]))
    codes = np.concatenate([part.codes for part in parts])
    lengths = np.diff(starts)[places]
    new = _starts(lengths)
    shift = np.repeat(starts[places] - new[:-1], lengths)
    return Spellings(new, codes[np.arange(new[-1]) + shift])


def _starts(lengths: Offsets) -> Offsets:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
