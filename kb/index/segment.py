"""A segment: ids, vectors and terms that never change once built. FAISS scores the vectors."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from kb.index.attributes import Attributes
from kb.index.postings import Postings

# FAISS wraps its constructors at import, so its own type hints do not fit them.
_make_selector: Any = faiss.IDSelectorBitmap
_make_parameters: Any = faiss.SearchParameters

SHORTENED_ROWS = 8192
"""Rows from which on a scan of shortened vectors before the exact one is worth their memory."""
LEAST_SHARE = 4
"""Where fewer than one row in so many is wanted, these have fewer bytes in full than all of them have shortened."""
_MARGIN = 256
"""So many rows more than twice those wanted are looked at exactly."""
_SUMMATION = 1e-5
"""What sums of 32-bit products of unit vectors may be off by."""
_CHUNK = 4096

Vectors = NDArray[np.float32]
Bitmap = NDArray[np.uint8]
Times = NDArray[np.float64]


class Segment(Protocol):
    """What an index needs of a segment, whatever FAISS structure is inside."""

    ids: Sequence[str]
    """Ascending and distinct: row r is the fact `ids[r]`."""
    expires: Times
    """Unix seconds per row; infinity: never."""
    postings: Postings
    """The terms of the rows."""
    attributes: Attributes
    """Their metadata."""

    def __len__(self) -> int: ...

    def search(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """Rows of the (up to) k best inner products among the rows set in `alive` (None: all of them)."""
        ...

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """float32 [len(rows), dim], copied."""
        ...


class FlatSegment:
    """Exact search by scanning every vector: of many, first in a quarter of the bytes."""

    def __init__(
        self, ids: Sequence[str], vectors: Vectors, expires: Times, postings: Postings, attributes: Attributes
    ) -> None:
        """`vectors` is float32 [n, dim] in the order of `ids`, which must be ascending."""
        self.ids = ids
        self.expires = expires
        self.postings = postings
        self.attributes = attributes
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        # A view of the vectors that FAISS owns, so that they are held once.
        count = len(ids) * vectors.shape[1]
        flat: Any = faiss.rev_swig_ptr(self._index.get_xb(), count) if count else np.empty(0, np.float32)
        self._matrix: Vectors = flat.reshape(len(ids), vectors.shape[1])
        self._shortened = Shortened(self._matrix) if len(ids) >= SHORTENED_ROWS else None

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """Rows of the k best inner products with `query` float32 [dim]. Thread-safe: nothing is written."""
        k = min(k, len(self.ids))
        found = None
        if self._shortened is not None and (alive is None or LEAST_SHARE * bits_in(alive) > len(self.ids)):
            found = self._shortened.search(query, k, alive)
        return _scan(self._index, query, k, alive)[1] if found is None else found

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """float32 [len(rows), dim], copied."""
        return self._matrix[rows]


class Shortened:
    """The vectors once more, rounded to 8 bits: memory sets the pace of a scan, and they need a quarter of it."""

    def __init__(self, matrix: Vectors) -> None:
        """`matrix` is float32 [n, dim] and is kept."""
        self._matrix = matrix
        self._index = faiss.IndexScalarQuantizer(
            matrix.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        self._step = _step(matrix)
        self._error = self._longest = 0.0
        for start in range(0, len(matrix), _CHUNK):
            some = matrix[start : start + _CHUNK]
            rounded = np.rint(some / self._step)
            self._index.add(rounded)
            self._error = max(self._error, _length(some - rounded * self._step))
            self._longest = max(self._longest, _length(rounded * self._step))

    def search(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64] | None:
        """As `Segment.search`; None where rounding, or rows that are dead, leave open which are the best."""
        step = _step(query)
        rounded = np.rint(query / step)  # FAISS multiplies whole numbers, and would cut off the rest
        # Dead rows are few, as a rule: dropping them afterwards is faster than asking for each row.
        scores, rows = _scan(self._index, rounded, 2 * k + _MARGIN, None)
        # With x^ for x rounded: |q·x - q^·x^| <= |q| |x - x^| + |q - q^| |x^|
        error = (self._error + _SUMMATION) * _length(query) + _length(query - rounded * step) * self._longest
        # No row that was not found scores more than this.
        others = float(scores.min(initial=np.inf)) * step * self._step + error
        if alive is not None:
            rows = rows[(alive[rows >> 3] >> (rows & 7) & 1).astype(np.bool_)]
        exact = self._matrix[rows] @ query
        best = np.argsort(-exact, kind="stable")[:k]
        complete = len(scores) == len(self._matrix) or (len(best) == k and others < exact[best[-1]])
        return rows[best] if complete else None


def _step(vectors: Vectors) -> np.float32:
    """What one stands for when the vectors are written as whole numbers of up to 127."""
    return np.float32(np.abs(vectors).max(initial=0) / 127) or np.float32(1)


def _length(vectors: Vectors) -> float:
    """Of the longest one."""
    return float(np.linalg.norm(vectors, axis=-1).max())


def _scan(index: Any, query: Vectors, k: int, alive: Bitmap | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and rows of up to k. One query is scanned by one thread, whatever FAISS's OpenMP setting is."""
    parameters = None
    if alive is not None:
        selector = _make_selector(alive)
        parameters = _make_parameters(sel=selector)
    scores, rows = index.search(query.reshape(1, -1), k, params=parameters)
    found = rows[0] >= 0
    return scores[0][found], rows[0][found]


def bits_in(bitmap: Bitmap) -> int:
    """How many rows are set."""
    return int(np.bitwise_count(bitmap).sum())


def row_of(segment: Segment, fact_id: str) -> int | None:
    """The row that holds `fact_id`."""
    row = bisect_left(segment.ids, fact_id)
    return row if row < len(segment.ids) and segment.ids[row] == fact_id else None
