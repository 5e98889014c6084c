"""What a posting is worth to BM25 before the term's weight: its count, saturated, and less in a long row."""

from __future__ import annotations

import math
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


def rounded(mean_length: float) -> float:
    """The mean length that rows are compared with: in steps of 4 %, so that hardly any edit changes it."""
    return float(2 ** (round(_STEPS * math.log2(mean_length)) / _STEPS)) if mean_length else 1.0


class Impacts:
    """Of some postings. What they share of a row, for the last mean length, is kept. Thread-safe."""

    def __init__(self, rows: Rows, counts: Counts, lengths: Counts) -> None:
        """`rows` and `counts` are of the postings, `lengths` of the rows."""
        self._rows = rows
        self._counts = counts
        self._lengths = lengths
        self._most = int(counts.max(initial=0))
        self._kept = (0.0, np.empty(0, np.float32), 0.0)

    def of(self, mean_length: float, places: slice | NDArray[np.int64]) -> Scores:
        """float32, of the postings at these places: in [0, 1)."""
        counts = self._counts[places].astype(np.float32)
        return counts / (counts + self._norms(mean_length)[0][self._rows[places]])

    def bound(self, mean_length: float) -> float:
        """No posting has a greater one."""
        return self._most / (self._most + self._norms(mean_length)[1]) if self._most else 0.0

    def _norms(self, mean_length: float) -> tuple[Scores, float]:
        """float32 [rows], and the least of them."""
        mean, norms, least = self._kept
        if mean != mean_length:
            norms = (K1 * (1 - B + B * self._lengths / mean_length)).astype(np.float32)
            least = float(norms.min(initial=np.inf))
            self._kept = (mean_length, norms, least)
        return norms, least
