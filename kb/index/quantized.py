"""A segment of many rows: one bit per dimension is scanned (RaBitQ, by FAISS), then the best vectors are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from kb.index.attributes import Attributes
from kb.index.postings import Postings
from kb.index.segment import Bitmap, Times, Vectors, bits_in

QUANTIZED_ROWS: Final = 1 << 16
"""Rows from which on bits are scanned: of fewer, all vectors in 8 bits, which miss none."""
_CANDIDATES: Final = 1024
"""Rows whose vectors are read, at least. Of 10⁶ confusable facts they held the 8 best for each of 200 questions, and
99.3 % of the 40 best."""
_MOST_CANDIDATES: Final = 16_384
_FEW: Final = 4096
"""Of so few living rows each vector is read."""
_CHUNK: Final = 1 << 14


def worth_quantizing(rows: int) -> bool:
    """Whether so many are too many to scan whole."""
    return rows >= QUANTIZED_ROWS


class QuantizedSegment:
    """See `kb.index.segment.Segment`. Nearly exact: what the bits rank far behind is not looked at. Thread-safe."""

    def __init__(
        self,
        ids: Sequence[str],
        vectors: Vectors,
        expires: Times,
        postings: Postings,
        attributes: Attributes,
        codes: Any,
        path: Path | None = None,
    ) -> None:
        """`vectors` float32 [n, dim] is kept; `codes`: what `encoded` made of them; `path`: where they lie on disk."""
        self.ids = ids
        self.expires = expires
        self.postings = postings
        self.attributes = attributes
        self.path = path
        self._matrix = vectors
        self._codes = codes

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """Rows of the k best inner products with `query` float32 [dim]."""
        rows = self._candidates(query, k, alive)
        best = np.argsort(-(self._matrix[rows] @ query), kind="stable")[:k]
        return rows[best]

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """float32 [len(rows), dim], copied."""
        return self._matrix[rows]

    def _candidates(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """Living rows, ascending, at least k if there are."""
        living = len(self) if alive is None else bits_in(alive)
        if alive is not None and living <= _FEW:
            return self._living(alive)
        # FAISS cannot leave rows out of this scan, so as many more are asked for as may be dead.
        least = max(_CANDIDATES, 2 * k)
        wanted = min(least * len(self) // max(living, 1), max(_MOST_CANDIDATES, 2 * k), len(self))
        rows = self._codes.search(query.reshape(1, -1), wanted)[1][0]
        rows = np.sort(rows[rows >= 0])
        if alive is not None:
            rows = rows[(alive[rows >> 3] >> (rows & 7) & 1).astype(np.bool_)]
        # A filter may want just those that are far from the question.
        return rows if len(rows) >= min(k, living) else self._nearest(query, k, alive)

    def _nearest(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """The best of all living rows, ascending: each vector is read, a bounded number at a time."""
        living = np.arange(len(self)) if alive is None else self._living(alive)
        some = (living[start : start + _CHUNK] for start in range(0, len(living), _CHUNK))
        scores = np.concatenate([self._matrix[rows] @ query for rows in some])
        return np.sort(living[np.argpartition(-scores, k - 1)[:k]]) if k < len(living) else living

    def _living(self, alive: Bitmap) -> NDArray[np.int64]:
        return np.flatnonzero(np.unpackbits(alive, count=len(self), bitorder="little"))


def encoded(vectors: Vectors) -> Any:
    """FAISS's index of the bits of `vectors`, a few bytes more than dim / 8 for each."""
    index = faiss.IndexRaBitQFastScan(vectors.shape[1], faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // _CHUNK)]))
    for start in range(0, len(vectors), _CHUNK):
        index.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))
    return index
