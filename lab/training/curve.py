"""The learning curve as a picture."""

from __future__ import annotations

from pathlib import Path

from lab.training.points import Curve, Point
from lab.training.smoothing import smooth


def plot_curve(curve: Curve, path: Path) -> None:
    """Write a PNG: reply loss and exact replies against steps. Needs matplotlib (the `train` extra)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, exact = figure.subplots(1, 2)
    steps = [point.step for point in curve.training]
    losses.plot(steps, [point.loss for point in curve.training], color="0.85", linewidth=0.8, label="batch")
    losses.plot(steps, smooth([point.loss for point in curve.training]), color="C0", label="batch, smoothed")
    losses.plot(*_series(curve.validation, "loss"), color="C1", marker="o", markersize=3, label="dev")
    losses.set(xlabel="step", ylabel="nats per reply token", ylim=(0, None))
    exact.plot(steps, smooth([point.exact for point in curve.training]), color="C0", label="batch, smoothed")
    exact.plot(*_series(curve.validation, "exact"), color="C1", marker="o", markersize=3, label="dev")
    exact.set(xlabel="step", ylabel="replies exact, token by token", ylim=(0, 1))
    for axes in (losses, exact):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _series(points: list[Point], field: str) -> tuple[list[int], list[float]]:
    return [point.step for point in points], [getattr(point, field) for point in points]
