"""Noisy figures of single batches, made readable."""

from __future__ import annotations

from collections.abc import Sequence

SMOOTHING = 0.95


def smooth(values: Sequence[float]) -> list[float]:
    """Their exponential mean."""
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else SMOOTHING * smoothed[-1] + (1 - SMOOTHING) * value)
    return smoothed
