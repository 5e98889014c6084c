"""An encoder for stores so large that embedding every fact would take hours: beyond a number of texts their vectors are
those of others, moved a little. So neighbours are many and near, which is hard for an index, not easy."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from kb.encoder.protocol import Encoder
from kb.index.segment import Vectors

BULK: Final = 64
"""So many texts at once are facts of an import; fewer are questions and edits, which are always embedded."""
MOVED: Final = 0.5
"""Length of what is added to a unit vector."""


class DerivedEncoder:
    """Embeds `embedded` texts of an import, or a few more, and derives the vectors of all others from theirs.
    Thread-safe for one import at a time."""

    def __init__(self, encoder: Encoder, embedded: int) -> None:
        self._encoder = encoder
        self._left = embedded
        self._known: list[Vectors] = []
        self._lock = threading.Lock()
        self.derived = 0
        """Texts whose vectors are derived."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._encoder.dimension

    @property
    def fingerprint(self) -> str:
        """Never that of the encoder itself."""
        return f"derived {self._encoder.fingerprint}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension], rows of unit length."""
        if len(texts) < BULK or self._left > 0:
            vectors = self._encoder.embed(texts)
            if len(texts) >= BULK:
                with self._lock:
                    self._left -= len(texts)
                    self._known.append(vectors)
            return vectors
        source = np.random.default_rng(int.from_bytes(hashlib.sha256(texts[0].encode()).digest()[:8], "little"))
        known = self._all(len(texts))
        near = known[source.integers(0, len(known), len(texts))]
        noise = source.standard_normal(near.shape, dtype=np.float32)
        moved = near + MOVED * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        result: Vectors = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        return result

    def _all(self, derived: int) -> Vectors:
        with self._lock:
            self.derived += derived
            if len(self._known) > 1:
                self._known = [np.concatenate(self._known)]
            return self._known[0]
