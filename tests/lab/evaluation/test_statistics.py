"""Statistics over judged replies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.evaluation.statistics import (
    Estimate,
    auroc,
    bootstrap,
    calibration_error,
    kl_divergence,
    paired_difference,
    reliability,
)


def test_bootstrap() -> None:
    estimate = bootstrap([1.0] * 30 + [0.0] * 70)
    assert estimate.mean == pytest.approx(0.3)
    assert 0.2 < estimate.low < 0.3 < estimate.high < 0.4
    assert estimate == bootstrap([1.0] * 30 + [0.0] * 70)
    assert bootstrap([0.5]) == Estimate(0.5, 0.5, 0.5, 1)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_intervals_are_those_of_earlier_reports() -> None:
    for values, seed, wanted in (
        ([1.0] * 30 + [0.0] * 70, 0, (0.3, 0.21, 0.39)),
        ([0.1, 0.5, 2.0, -1.0, 0.25], 3, (0.37, -0.45075, 1.27)),
    ):
        found = bootstrap(values, seed)
        assert (found.mean, found.low, found.high) == pytest.approx(wanted, abs=1e-12)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    theirs = [float(i % 2) for i in range(100)]
    ours = [1.0 if i < 10 else value for i, value in enumerate(theirs)]
    estimate = paired_difference(ours, theirs)
    assert estimate.mean == pytest.approx(0.05)
    assert estimate.high - estimate.low < 0.1
    with pytest.raises(ValueError, match="shorter"):
        paired_difference(ours, theirs[1:])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(cases: list[tuple[float, bool]]) -> None:
    scores, labels = [score for score, _ in cases], [label for _, label in cases]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="both classes"):
            auroc(scores, labels)
        return
    pairs = [(a, b) for a, one in cases if one for b, other in cases if not other]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert auroc(scores, labels) == pytest.approx(expected)


def test_reliability() -> None:
    bins = reliability([0.05, 0.05, 0.95, 1.0], [False, True, True, True])
    assert [one.n for one in bins] == [2, 2]
    assert bins[0].observed == 0.5
    assert calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_kl_divergence() -> None:
    p, q = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        assert kl_divergence(np.log(np.array([1.0, 0.0])), q) == pytest.approx(math.log(4))
