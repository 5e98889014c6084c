"""Percentiles against their definition, medians against the standard library's."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.stats import Summary, median, percentile

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
