"""Vectors of texts: from memory, from the cache table, or from the encoder, in this order."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from kb.encoder.protocol import Encoder
from kb.index.segment import Vectors
from kb.log.schema import embeddings

_QUERY = 400  # SQLite's oldest bound on parameters is 999
_REMEMBERED = 4096


class EmbeddingCache:
    """Thread-safe. A row that is missing or damaged is computed anew, never trusted."""

    def __init__(self, engine: Engine, encoder: Encoder) -> None:
        self._engine = engine
        self._encoder = encoder
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, Vectors] = OrderedDict()

    def vectors(self, texts: Iterable[str]) -> dict[str, Vectors]:
        """float32 [dimension] of every text, computing what is not cached. Raises what the encoder raises."""
        wanted = list(dict.fromkeys(texts))
        found = self._remembered(wanted)
        found |= self.stored([text for text in wanted if text not in found])
        missing = [text for text in wanted if text not in found]
        found |= self.compute(missing)
        self._remember(found)
        return found

    def compute(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """Straight from the encoder."""
        if not texts:
            return {}
        matrix = np.ascontiguousarray(self._encoder.embed(texts), dtype=np.float32)
        expected = (len(texts), self._encoder.dimension)
        if matrix.shape != expected or not np.isfinite(matrix).all():
            raise RuntimeError(f"the encoder gave {matrix.shape} or non-finite numbers, expected {expected}")
        return dict(zip(texts, matrix, strict=True))

    def stored(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """What the cache table holds undamaged. A table that cannot be read holds nothing."""
        found: dict[str, Vectors] = {}
        for some in _chunks(texts, _QUERY):
            by_hash = {_hash(text): text for text in some}
            for text_hash, vector, checksum in self._rows(list(by_hash)):
                text = by_hash.get(text_hash)
                if text is not None and checksum == self._checksum(text_hash, vector):
                    found[text] = np.frombuffer(vector, dtype="<f4").astype(np.float32)
        return found

    def rows(self, vectors: Mapping[str, Vectors]) -> list[dict[str, Any]]:
        """Rows of the cache table that keep `vectors`."""
        rows = []
        for text, vector in vectors.items():
            text_hash, data = _hash(text), vector.astype("<f4").tobytes()
            checksum = self._checksum(text_hash, data)
            rows.append(
                {
                    "encoder": self._encoder.fingerprint,
                    "text_hash": text_hash,
                    "vector": data,
                    "checksum": checksum,
                }
            )
        return rows

    def keys(self, texts: Iterable[str]) -> list[dict[str, Any]]:
        """Of the rows of these texts."""
        return [{"encoder": self._encoder.fingerprint, "text_hash": _hash(text)} for text in texts]

    def _rows(self, hashes: list[bytes]) -> list[Any]:
        table = embeddings.c
        statement = select(table.text_hash, table.vector, table.checksum).where(
            table.encoder == self._encoder.fingerprint, table.text_hash.in_(hashes)
        )
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(statement))
        except (SQLAlchemyError, TypeError, ValueError):
            return []

    def _checksum(self, text_hash: bytes, vector: object) -> bytes | None:
        if not isinstance(vector, bytes) or len(vector) != 4 * self._encoder.dimension:
            return None
        keyed = hashlib.blake2b(text_hash + vector, digest_size=16, person=b"embedding")
        keyed.update(self._encoder.fingerprint.encode())
        return keyed.digest()

    def _remembered(self, texts: Sequence[str]) -> dict[str, Vectors]:
        with self._lock:
            return {text: self._recent[text] for text in texts if text in self._recent}

    def _remember(self, vectors: Mapping[str, Vectors]) -> None:
        with self._lock:
            for text, vector in vectors.items():
                self._recent[text] = vector
                self._recent.move_to_end(text)
            while len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _chunks(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, size)):
        yield chunk
