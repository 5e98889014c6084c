"""A segment: ids, vectors and terms that never change once built. FAISS scores the vectors."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from kb.index.attributes import Attributes
from kb.index.digests import SIZE, Digests
from kb.index.ids import Ids
from kb.index.postings import Postings

# FAISS wraps its constructors at import, so its own type hints do not fit them.
_make_selector: Any = faiss.IDSelectorBitmap
_make_parameters: Any = faiss.SearchParameters

Vectors = NDArray[np.float32]
Bitmap = NDArray[np.uint8]
Times = NDArray[np.float64]


class Segment(Protocol):
    """What an index needs of a segment, whatever FAISS structure is inside."""

    ids: Ids
    """Ascending and distinct: row r is the fact `ids[r]`."""
    expires: Times
    """Unix seconds per row; infinity: never."""
    postings: Postings
    """The terms of the rows."""
    attributes: Attributes
    """Their metadata."""
    digests: Digests
    """Of what each row says; zeros where that is not known."""

    def __len__(self) -> int: ...

    def search(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """Rows of the (up to) k best inner products among the rows set in `alive` (None: all of them)."""
        ...

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """float32 [len(rows), dim], copied."""
        ...


class FlatSegment:
    """Exact search by scanning every vector."""

    def __init__(
        self,
        ids: Ids,
        vectors: Vectors,
        expires: Times,
        postings: Postings,
        attributes: Attributes,
        digests: Digests | None = None,
    ) -> None:
        """`vectors` is float32 [n, dim] in the order of `ids`, which must be ascending."""
        self.ids = ids
        self.expires = expires
        self.postings = postings
        self.attributes = attributes
        self.digests = np.zeros((len(ids), SIZE), np.uint8) if digests is None else digests
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        # A view of the vectors that FAISS owns, so that they are held once.
        count = len(ids) * vectors.shape[1]
        flat: Any = faiss.rev_swig_ptr(self._index.get_xb(), count) if count else np.empty(0, np.float32)
        self._matrix: Vectors = flat.reshape(len(ids), vectors.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """Rows of the k best inner products with `query` float32 [dim]. Thread-safe: nothing is written."""
        return _scan(self._index, query, min(k, len(self.ids)), alive)

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """float32 [len(rows), dim], copied."""
        return self._matrix[rows]


def _scan(index: Any, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
    """Rows of up to k. One query is scanned by one thread, whatever FAISS's OpenMP setting is."""
    parameters = None
    if alive is not None:
        selector = _make_selector(alive)
        parameters = _make_parameters(sel=selector)
    _, rows = index.search(query.reshape(1, -1), k, params=parameters)
    found: NDArray[np.int64] = rows[0][rows[0] >= 0]
    return found


def bits_in(bitmap: Bitmap) -> int:
    """How many rows are set."""
    return int(np.bitwise_count(bitmap).sum())


def row_of(segment: Segment, fact_id: str) -> int | None:
    """The row that holds `fact_id`."""
    row = bisect_left(segment.ids, fact_id)
    return row if row < len(segment.ids) and segment.ids[row] == fact_id else None
