"""Logistic regression by Newton's method, for a handful of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 50


def fit_logistic(
    features: Sequence[Sequence[float]], labels: Sequence[bool], ridge: float = 1.0
) -> tuple[tuple[float, ...], float]:
    """(weights, bias) of the most probable truth of `labels` given `features` [n][f].

    `ridge` is the L2 penalty on the weights of standardised features; it keeps separable data finite.
    Raises ValueError without both classes.
    """
    x, y = np.asarray(features, np.float64), np.asarray(labels, np.float64)
    if len(x) == 0 or y.min() == y.max():
        raise ValueError("a logistic regression needs both classes")
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1
    design = np.column_stack(((x - centre) / spread, np.ones(len(x))))
    penalty = np.diag([ridge] * x.shape[1] + [1e-9])
    solution = np.zeros(design.shape[1])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-np.clip(design @ solution, -60, 60)))
        gradient = design.T @ (probability - y) + penalty @ solution
        curvature = (design.T * (probability * (1 - probability))) @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        solution -= step
        if np.abs(step).max() < 1e-10:
            break
    weights = solution[:-1] / spread
    return tuple(map(float, weights)), float(solution[-1] - weights @ centre)
