"""The bridge: what a fact has of that which the best fact adds to the question."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kan.fit import bridges

A, B, C = np.eye(3, dtype=np.float32)


def unit(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.sum(parts, axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def test_a_fact_that_goes_on_from_the_best_one_has_a_bridge_to_it() -> None:
    """The question is about A; the best fact says A is B; another is about B, a third about A and C."""
    best, second, distractor = unit(A, B), B, unit(A, 4 * C)
    found = bridges(A, np.stack([distractor, best, second]))
    assert found == pytest.approx((0.0, 0.5**0.5, 1.0), abs=1e-6)


def test_a_best_fact_that_is_the_question_leads_nowhere() -> None:
    assert bridges(A, np.stack([A, B])) == (0.0, 0.0)


def test_no_facts() -> None:
    assert bridges(A, np.empty((0, 3), np.float32)) == ()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(7)))
def test_bounded_and_the_same_in_any_order(seed: int, order: list[int]) -> None:
    vectors = np.random.default_rng(seed).standard_normal((8, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    question, facts = vectors[0], vectors[1:]
    found = np.array(bridges(question, facts))
    assert np.abs(found).max() <= 1 + 1e-5
    np.testing.assert_allclose(bridges(question, facts[order]), found[order], atol=1e-5)
