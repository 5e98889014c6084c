"""Statistics of the load tests: nothing here knows what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 2000
LEAST = 5
"""Values that an interval needs: fewer leave nothing to draw from."""


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value with at least `share` (0 < share <= 1) of all values at or below it.

    Always a value that was measured. Raises ValueError without values or for a share out of range.
    """
    if not values:
        raise ValueError("no values")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be in (0, 1], not {share}")
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True)
class Summary:
    """What is reported of one series, in the unit of the series."""

    n: int
    median: float
    p99: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Raises ValueError without values."""
        return cls(len(values), median(values), percentile(values, 0.99), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval, which is left out where there are too few values for one."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return number(self.value)
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def number(value: float) -> str:
    """Three digits, and whole ones as they are."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def ratio_of_medians(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Estimate:
    """Of measurements taken in pairs; the interval is a percentile bootstrap over the pairs.

    Raises ValueError without values, or if they are not as many.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if len(above) != len(below):
        raise ValueError(f"{len(above)} values cannot be paired with {len(below)}")
    value = median(above) / median(below)
    if len(above) < LEAST:
        return Estimate(value)

    def ratio(a: Any, b: Any, axis: int = -1) -> Any:
        return np.median(a, axis) / np.median(b, axis)

    low, high = bootstrap(
        (above, below), ratio, paired=True, n_resamples=RESAMPLES, method="percentile", rng=seed
    ).confidence_interval
    return Estimate(value, float(low), float(high))


def percentage(outcomes: Sequence[bool]) -> Estimate:
    """How many of the outcomes are true, in %, with Wilson's interval. Raises ValueError without outcomes."""
    from scipy.stats import binomtest

    if not outcomes:
        raise ValueError("no values")
    found = binomtest(sum(outcomes), len(outcomes))
    interval = found.proportion_ci(method="wilson")
    return Estimate(100 * found.statistic, 100 * float(interval.low), 100 * float(interval.high))
