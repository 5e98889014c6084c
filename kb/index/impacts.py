"""What a posting is worth to BM25 before the term's weight: its count, saturated, and less in a long row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Counts = NDArray[np.int32]
Scores = NDArray[np.float32]

K1: Final = 1.2
B: Final = 0.75
"""As in Lucene."""
_STEPS: Final = 16
"""To an octave."""
KEPT: Final = 4096
"""Postings of a term from which on their impacts are kept: it is asked for again, and there are few such terms."""


def rounded(mean_length: float) -> float:
    """The mean length that rows are compared with: in steps of 4 %, so that hardly any edit changes it."""
    return float(2 ** (round(_STEPS * math.log2(mean_length)) / _STEPS)) if mean_length else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """For one mean length."""

    mean_length: float
    norms: Scores
    """float32 [rows]: what all postings of a row share."""
    least: float
    """Of those."""
    terms: dict[int, Scores] = field(default_factory=dict)
    """Impacts of the postings of some terms, by their first place."""


class Impacts:
    """Of some postings. Those of common terms are kept for the last mean length: 4 bytes each at most. Thread-safe."""

    def __init__(self, rows: Rows, counts: Counts, lengths: Counts) -> None:
        """`rows` and `counts` are of the postings, `lengths` of the rows."""
        self._rows = rows
        self._counts = counts
        self._lengths = lengths
        self._most = int(counts.max(initial=0))
        self._longest = int(lengths.max(initial=0))
        self._kept = _Kept(0.0, np.empty(0, np.float32), math.inf)

    def of(self, mean_length: float, places: slice | NDArray[np.int64]) -> Scores:
        """float32, of the postings at these places: in [0, 1)."""
        return self._computed(self._for(mean_length), places)

    def of_term(self, mean_length: float, postings: slice) -> Scores:
        """The same of all postings of a term, which lie there. Not to be changed."""
        kept = self._for(mean_length)
        if postings.stop - postings.start < KEPT:
            return self._computed(kept, postings)
        impacts = kept.terms.get(postings.start)
        if impacts is None:
            impacts = kept.terms[postings.start] = self._computed(kept, postings)
        return impacts

    def bound(self, mean_length: float) -> float:
        """No posting has a greater one."""
        return self._most / (self._most + self._for(mean_length).least) if self._most else 0.0

    def _computed(self, kept: _Kept, places: slice | NDArray[np.int64]) -> Scores:
        counts = self._counts[places].astype(np.float32)
        return counts / (counts + kept.norms[self._rows[places]])

    def _for(self, mean_length: float) -> _Kept:
        kept = self._kept
        if kept.mean_length != mean_length:
            # Of each length that there is, then of each row: texts are short, rows many.
            of_length = (K1 * (1 - B + B * np.arange(self._longest + 1) / mean_length)).astype(np.float32)
            norms = of_length[self._lengths]
            kept = self._kept = _Kept(mean_length, norms, float(norms.min(initial=np.inf)))
        return kept
