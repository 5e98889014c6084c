"""The closed-form refit of φ: second gold facts rise, wrong ones do not, the best stay."""

from __future__ import annotations

import random

import pytest
import torch

from kan.knowledge.fit import Fit
from kan.knowledge.phi import gap_phi
from lab.training.refit import Mounting, RefitOptions, refit

HEAD_DIM = 16


def mountings(seed: int, count: int = 200) -> list[Mounting]:
    """A best fact, a second gold one that the bridge gives away, and wrong ones more relevant than it."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        best = Fit(0.8, 0.6, 0.0)
        gold = Fit(0.3, rng.uniform(0.5, 0.9), 0.0)
        wrong = [Fit(rng.uniform(0.3, 0.6), rng.uniform(-0.2, 0.2), 0.0) for _ in range(6)]
        made.append(Mounting((best, *wrong, gold), (0, 7)))
    return made


def test_second_gold_facts_rise_above_wrong_ones() -> None:
    before = gap_phi(2, 3, HEAD_DIM)
    after = refit(before, mountings(0), HEAD_DIM, RefitOptions())
    for mounting in mountings(1, 20):
        old, new = before(mounting.fits), after(mounting.fits)
        assert bool((new[..., 7] > new[..., 1:7].amax(-1)).all()), "a wrong fact is still ahead"
        assert bool((new[..., 7] > old[..., 7]).all())
        assert torch.allclose(new[..., 0], old[..., 0], atol=4.0), "the best fact has moved by a nat or more"


def test_without_a_second_gold_fact_there_is_nothing_to_refit() -> None:
    single = [Mounting(one.fits, (0,)) for one in mountings(0, 5)]
    with pytest.raises(ValueError, match="second gold fact"):
        refit(gap_phi(2, 3, HEAD_DIM), single, HEAD_DIM, RefitOptions())


def test_much_ridge_changes_nothing() -> None:
    before = gap_phi(2, 3, HEAD_DIM)
    after = refit(before, mountings(0), HEAD_DIM, RefitOptions(ridge=1e12))
    assert torch.allclose(after.coefficients, before.coefficients, atol=1e-5)


def test_the_order_of_questions_does_not_matter() -> None:
    once = refit(gap_phi(2, 3, HEAD_DIM), mountings(0), HEAD_DIM, RefitOptions())
    again = refit(gap_phi(2, 3, HEAD_DIM), list(reversed(mountings(0))), HEAD_DIM, RefitOptions())
    assert torch.allclose(once.coefficients, again.coefficients, atol=1e-4)
