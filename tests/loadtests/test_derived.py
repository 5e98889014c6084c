"""Vectors of stores that are too large to be embedded."""

from __future__ import annotations

import numpy as np

from loadtests.derived import BULK, DerivedEncoder
from tests.kb.hashing import HashEncoder


def test_beyond_a_number_of_texts_vectors_are_derived() -> None:
    own = HashEncoder()
    encoder = DerivedEncoder(own, 2 * BULK)
    texts = [f"text {number}" for number in range(4 * BULK)]
    first, second, third, fourth = (encoder.embed(texts[start : start + BULK]) for start in range(0, 4 * BULK, BULK))
    known = np.concatenate((first, second))
    assert np.array_equal(known, HashEncoder().embed(texts[: 2 * BULK]))
    derived = np.concatenate((third, fourth))
    assert np.allclose(np.linalg.norm(derived, axis=1), 1, atol=1e-6)
    assert ((derived @ known.T).max(axis=1) > 0.8).all()
    assert len(np.unique(derived, axis=0)) == len(derived) == encoder.derived
    assert np.array_equal(encoder.embed(texts[3 * BULK :]), fourth)
    # Questions and edits are always embedded.
    assert np.array_equal(encoder.embed(["one"]), HashEncoder().embed(["one"]))
    assert encoder.fingerprint != own.fingerprint
