"""Statistics of an evaluation: intervals, ranking and calibration. Nothing here knows what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats
from sklearn.metrics import roc_auc_score

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
    mean = float(data.mean())
    if len(data) == 1:  # every resample is the same
        return Estimate(mean, mean, mean, 1)
    low, high = scipy.stats.bootstrap(
        [data], np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=seed
    ).confidence_interval
    return Estimate(mean, float(low), float(high), len(data))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of ours - theirs over the same questions. Raises ValueError if they are not as many."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return bootstrap(differences, seed)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """How likely answers differ this much, one way or the other, if both are equally often right (exact test)."""
    pairs = list(zip(ours, theirs, strict=True))
    only_ours, only_theirs = pairs.count((True, False)), pairs.count((False, True))
    if not only_ours + only_theirs:
        return 1.0
    return float(scipy.stats.binomtest(only_ours, only_ours + only_theirs).pvalue)


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Chance that a true case scores above a false one, ties counting half. Raises ValueError if a class is empty."""
    if len(set(labels)) < 2:
        raise ValueError("AUROC needs both classes")
    return float(roc_auc_score(labels, scores))


def auroc_interval(scores: Sequence[float], labels: Sequence[bool], seed: int = 0) -> Estimate:
    """AUROC with its percentile-bootstrap 95 % interval over cases. Raises ValueError if a class is empty."""
    values, truth = np.asarray(scores, np.float64), np.asarray(labels, bool)
    mean, rng = auroc(scores, labels), np.random.default_rng(seed)
    drawn = (rng.integers(len(values), size=len(values)) for _ in range(RESAMPLES))
    # A resample of one class alone tells nothing.
    resampled = [_rank_auroc(values[rows], truth[rows]) for rows in drawn if len(set(truth[rows].tolist())) == 2]
    low, high = np.percentile(resampled, (50 * (1 - LEVEL), 50 * (1 + LEVEL))).tolist() if resampled else (mean, mean)
    return Estimate(mean, low, high, len(values))


def _rank_auroc(values: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    """By Mann and Whitney's U: twenty times as fast as from the curve."""
    ranks, trues = scipy.stats.rankdata(values), int(truth.sum())
    return float((ranks[truth].sum() - trues * (trues + 1) / 2) / (trues * (len(truth) - trues)))


def reliability(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1]; empty ones are left out."""
    values, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    means = scipy.stats.binned_statistic(values, [values, truth], "mean", bins, (0, 1)).statistic
    counts, _ = np.histogram(values, bins, (0, 1))
    return [Bin(float(p), float(o), int(n)) for p, o, n in zip(*means, counts, strict=True) if n]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of predicted from observed, weighted by n."""
    distances = [abs(one.predicted - one.observed) for one in bins]
    return float(np.average(distances, weights=[one.n for one in bins]))


def kl_divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """KL(p ‖ q) in nats, from natural-log probabilities over the same outcomes."""
    return float(np.sum(np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))))
