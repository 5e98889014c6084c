"""The encoder ρ: sentences to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kb.index.segment import Vectors


class Encoder(Protocol):
    """What the store needs of ρ. Implementations must be safe to call from several threads at once."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text might be given another vector."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension], rows of unit length."""
        ...
