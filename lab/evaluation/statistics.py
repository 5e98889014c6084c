"""Statistics of an evaluation: intervals, ranking and calibration. Nothing here knows what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of n values with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of like confidence: their mean, how often they were true, and how many there are."""

    predicted: float
    observed: float
    n: int


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean with its percentile-bootstrap 95 % interval. Raises ValueError without values."""
    if not len(values):
        raise ValueError("no values")
    data = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.quantile(data[picks].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(data.mean()), float(low), float(high), len(data))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of ours - theirs over the same questions. Raises ValueError if they are not as many."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return bootstrap(differences, seed)


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Chance that a true case scores above a false one, ties counting half. Raises ValueError if a class is empty."""
    values, truth = np.asarray(scores, np.float64), np.asarray(labels, bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise ValueError("AUROC needs both classes")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def reliability(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1]; empty ones are left out."""
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    places = np.clip((values * bins).astype(int), 0, bins - 1)
    inside = [places == place for place in range(bins)]
    return [Bin(float(values[one].mean()), float(truth[one].mean()), int(one.sum())) for one in inside if one.any()]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of predicted from observed, weighted by n."""
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.predicted - one.observed) for one in bins) / total if total else 0.0


def kl_divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """KL(p ‖ q) in nats, from natural-log probabilities over the same outcomes."""
    return float(np.sum(np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))))
