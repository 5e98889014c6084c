"""How facts fit a question: relevance, the bridge from the best fact, the rest that it leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kan.knowledge.fit import Fit, fits

A, B, C = np.eye(3, dtype=np.float32)


def unit(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.sum(parts, axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def near(*fit: float) -> object:
    return pytest.approx(fit, abs=1e-6)


def test_a_fact_that_goes_on_from_the_best_one_has_a_bridge_to_it() -> None:
    """The question is about A; the best fact says A is B; another is about B, a third about A and C."""
    best, second, distractor = unit(A, B), B, unit(A, 4 * C)
    found = fits(A, np.stack([distractor, best, second]))
    assert [one.bridge for one in found] == near(0.0, 0.5**0.5, 1.0)


def test_a_fact_about_what_is_left_to_be_asked_fits_the_rest() -> None:
    """The question is about A and B; the best fact is about A, the second about B and C, a third about A and C."""
    best, second, distractor = A, unit(B, C), unit(A, 4 * C)
    found = fits(unit(2 * A, B), np.stack([distractor, best, second]))
    assert [one.rest for one in found] == near(0.0, 0.0, 0.5**0.5)


def test_a_best_fact_that_is_the_question_leads_nowhere_and_leaves_nothing() -> None:
    assert fits(A, np.stack([A, B])) == (Fit(1.0), Fit(0.0))


def test_one_fact() -> None:
    (only,) = fits(A, unit(A, B)[None])
    assert only == near(0.5**0.5, 0.5**0.5, 0.0, 0.0, 0.0)


def test_words_in_common_and_length_are_as_told() -> None:
    found = fits(A, np.stack([A, B]), [0.5, 0.25], ["some", "thing longer"])
    assert [(one.lexical, one.length) for one in found] == [(0.5, 4), (0.25, 12)]


def test_no_facts() -> None:
    assert fits(A, np.empty((0, 3), np.float32)) == ()


def test_equally_relevant_facts_are_all_the_best() -> None:
    facts = np.stack([unit(A, B), unit(A, C), B])
    there, back = fits(A, facts), fits(A, facts[[1, 0, 2]])
    for one, other in zip(there, (back[1], back[0], back[2]), strict=True):
        assert one == near(*other)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_bounded_and_the_same_in_any_order(seed: int, mounted: list[int]) -> None:
    """Of seven facts, some mounted more than once."""
    vectors = np.random.default_rng(seed).standard_normal((8, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    question, facts = vectors[0], vectors[1:][mounted]
    order = np.random.default_rng(seed + 1).permutation(len(mounted))
    found = np.array(fits(question, facts))
    assert np.abs(found).max() <= 1 + 1e-5
    np.testing.assert_allclose(fits(question, facts[order]), found[order], atol=1e-5)
