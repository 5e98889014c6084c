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
_CHUNK: Final = 1 << 16


def rounded(mean_length: float) -> float:
    """The mean length that rows are compared with: in steps of 4 %, so that hardly any edit changes it."""
    return float(2 ** (round(_STEPS * math.log2(mean_length)) / _STEPS)) if mean_length else 1.0


class Impacts:
    """Of some postings, float32: in [0, 1). Those for the last mean length are kept. Thread-safe."""

    def __init__(self, rows: Rows, counts: Counts, lengths: Counts) -> None:
        """`rows` and `counts` are of the postings, `lengths` of the rows."""
        self._rows = rows
        self._counts = counts
        self._lengths = lengths
        self._kept = (0.0, np.empty(0, np.float32))

    def of(self, mean_length: float) -> Scores:
        """float32 [postings]"""
        mean, impacts = self._kept
        if mean != mean_length:
            impacts = self._computed(mean_length)
            self._kept = (mean_length, impacts)
        return impacts

    def _computed(self, mean_length: float) -> Scores:
        norms = (K1 * (1 - B + B * self._lengths / mean_length)).astype(np.float32)
        impacts = np.empty(len(self._rows), np.float32)
        for start in range(0, len(impacts), _CHUNK):
            some = slice(start, start + _CHUNK)
            counts = self._counts[some].astype(np.float32)
            np.divide(counts, counts + norms[self._rows[some]], out=impacts[some])
        return impacts
