"""Percentiles against their definition, medians against the standard library's."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.stats import Estimate, Summary, median, number, percentage, percentile, ratio_of_medians

series = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)
shares = st.floats(0.001, 1.0)


@given(series, shares)
def test_percentile_is_the_smallest_value_with_enough_at_or_below_it(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values)
    assert sum(v < found for v in values) < share * len(values)


@given(series)
def test_median(values: list[float]) -> None:
    assert median(values) == pytest.approx(statistics.median(values))


def test_p99_of_200_is_the_third_from_the_top() -> None:
    summary = Summary.of([float(i) for i in range(1, 201)])
    assert (summary.n, summary.median, summary.p99, summary.minimum, summary.maximum) == (200, 100.5, 198, 1, 200)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_share_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


def test_no_values() -> None:
    for function in (median, Summary.of, lambda values: percentile(values, 0.5)):
        with pytest.raises(ValueError, match="no values"):
            function([])


def test_ratio_of_pairs_that_move_together_is_sure() -> None:
    """The machine's speed swings by a factor of three, and both see the same of it."""
    ours = [1.0 + (i % 20) / 10 for i in range(40)]
    found = ratio_of_medians([2 * value for value in ours], ours)
    assert found == Estimate(2.0, 2.0, 2.0)


def test_interval_of_a_ratio_is_around_it_and_the_same_every_time() -> None:
    above, below = [10.0, 12.0, 11.0, 15.0, 9.0, 13.0], [5.0, 5.5, 7.0, 6.0, 4.0, 6.5]
    found = ratio_of_medians(above, below)
    assert found.value == 11.5 / 5.75
    assert found.low is not None
    assert found.high is not None
    assert min(above) / max(below) <= found.low < found.value < found.high <= max(above) / min(below)
    assert ratio_of_medians(above, below) == found


def test_few_values_have_no_interval() -> None:
    assert ratio_of_medians([4.0, 8.0], [2.0, 2.0]) == Estimate(3.0)


def test_values_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        ratio_of_medians([1.0, 2.0], [1.0])


def test_percentage() -> None:
    found = percentage([True] * 9 + [False])
    assert found.value == pytest.approx(90)
    assert found.low == pytest.approx(59.6, abs=0.1)  # Wilson's, as in the textbooks
    assert found.high == pytest.approx(98.2, abs=0.1)
    assert percentage([True] * 10).high == pytest.approx(100)
    with pytest.raises(ValueError, match="no values"):
        percentage([])


@pytest.mark.parametrize(
    ("value", "told"), [(3.0, "3"), (0.96123, "0.961"), (23.45, "23.4"), (1234.6, "1235"), (0.0, "0")]
)
def test_numbers_have_three_digits(value: float, told: str) -> None:
    assert number(value) == told


def test_estimate_is_told_with_its_interval() -> None:
    assert str(Estimate(2.345, 1.0, 30.06)) == "2.35 [1, 30.1]"
    assert str(Estimate(2.345)) == "2.35"
