"""A segment of many rows: one bit per dimension is scanned (RaBitQ, by FAISS), of very many rows only those around the
nearest centres (IVF); then the best vectors are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from kb.index.attributes import Attributes
from kb.index.digests import SIZE, Digests
from kb.index.ids import Ids
from kb.index.postings import Postings
from kb.index.segment import Bitmap, Times, Vectors, bits_in

_make_probing: Any = faiss.SearchParametersIVF

QUANTIZED_ROWS: Final = 1 << 13
"""Rows from which on bits are scanned: of fewer, all vectors."""
PARTITIONED_ROWS: Final = 1 << 18
"""Rows from which on they lie in lists around centres, and only the lists around the nearest centres are scanned."""
_ROWS_PER_LIST: Final = 1024
_PROBED: Final = 1 / 4
"""Of the lists; more where many rows are dead or pass no filter."""
_TRAINED_ON: Final = 64
"""Rows for each centre."""
_CANDIDATES: Final = 1024
"""Rows whose vectors are read, at least."""
_MARGIN: Final = 32
"""Rows more than twice those wanted that must be among them."""
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
        ids: Ids,
        vectors: Vectors,
        expires: Times,
        postings: Postings,
        attributes: Attributes,
        codes: Any,
        digests: Digests | None = None,
        path: Path | None = None,
    ) -> None:
        """`vectors` float32 [n, dim] is kept; `codes`: what `encoded` made of them; `path`: where they lie on disk."""
        self.ids = ids
        self.expires = expires
        self.postings = postings
        self.attributes = attributes
        self.digests = np.zeros((len(ids), SIZE), np.uint8) if digests is None else digests
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
        least = max(_CANDIDATES, 4 * k)
        wanted = min(least * len(self) // max(living, 1), max(_MOST_CANDIDATES, 4 * k), len(self))
        rows = self._codes.search(query.reshape(1, -1), wanted, params=self._probing(living))[1][0]
        rows = np.sort(rows[rows >= 0])
        if alive is not None:
            rows = rows[(alive[rows >> 3] >> (rows & 7) & 1).astype(np.bool_)]
        # A filter may want just those that are far from the question: of these only some come here, by chance.
        return rows if len(rows) >= min(2 * k + _MARGIN, living) else self._nearest(query, k, alive)

    def _probing(self, living: int) -> Any:
        """How many lists are scanned; None where there are none."""
        lists = getattr(self._codes, "nlist", 0)
        if not lists:
            return None
        return _make_probing(nprobe=min(lists, math.ceil(_PROBED * lists * len(self) / max(living, 1))))

    def _nearest(self, query: Vectors, k: int, alive: Bitmap | None) -> NDArray[np.int64]:
        """The best of all living rows, ascending: each vector is read, a bounded number at a time."""
        living = np.arange(len(self)) if alive is None else self._living(alive)
        some = (living[start : start + _CHUNK] for start in range(0, len(living), _CHUNK))
        scores = np.concatenate([self._matrix[rows] @ query for rows in some])
        return np.sort(living[np.argpartition(-scores, k - 1)[:k]]) if k < len(living) else living

    def _living(self, alive: Bitmap) -> NDArray[np.int64]:
        return np.flatnonzero(np.unpackbits(alive, count=len(self), bitorder="little"))


def encoded(vectors: Vectors) -> Any:
    """FAISS's index of the bits of `vectors`, a few bytes more than dim / 8 for each. The calling thread computes."""
    count, dimension = vectors.shape
    if count < PARTITIONED_ROWS:
        index: Any = faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT)
        sample = _CHUNK
    else:
        lists = max(count // _ROWS_PER_LIST, 1)
        centres = faiss.IndexFlatIP(dimension)
        index = faiss.IndexIVFRaBitQFastScan(centres, dimension, lists, faiss.METRIC_INNER_PRODUCT)
        sample = _TRAINED_ON * lists
    index.train(np.ascontiguousarray(vectors[:: max(1, count // sample)]))
    for start in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))
    return index
