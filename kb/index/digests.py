"""What tells whether a row of a stored segment still says what its fact does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import orjson
from numpy.typing import NDArray

from kb.facts import JSON

Digests = NDArray[np.uint8]
"""uint8 [rows, 16]"""
SIZE = 16


def digest_of(text: str, expires_at: float | None, metadata: Mapping[str, JSON]) -> bytes:
    """Of all that a segment's columns hold of a fact. `expires_at`: unix seconds; None or infinity: never."""
    expires_at = None if expires_at is None or math.isinf(expires_at) else expires_at
    said = orjson.dumps((text, expires_at, metadata))
    return hashlib.blake2b(said, digest_size=SIZE, person=b"segment row").digest()


def stacked(digests: Iterable[bytes]) -> Digests:
    """uint8 [rows, 16]"""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE)
