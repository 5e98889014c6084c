"""The learning curve as a table and as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from lab.training.lm.options import LMOptions
from lab.training.points import Curve, Point
from lab.training.smoothing import smooth

COLUMNS = ("step", "learning_rate", "loss", "exact", "fixed_sample_loss", "fixed_sample_exact")
"""Of the CSV. Of the step's batch before the step; of the fixed sample after so many steps, where it was measured."""


def write_csv(curve: Curve, options: LMOptions, path: Path) -> None:
    """One line a step."""
    validated = {point.step: point for point in curve.validation}
    trained = {point.step: point for point in curve.training}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for step in sorted(validated.keys() | trained.keys()):
            rate = f"{options.rate(step - 1):.6g}" if step else ""
            writer.writerow([step, rate, *_cells(trained.get(step)), *_cells(validated.get(step))])


def read_csv(path: Path) -> list[Point]:
    """The fixed sample's points."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Point(int(row["step"]), float(row["fixed_sample_loss"]), float(row["fixed_sample_exact"]))
            for row in csv.DictReader(file)
            if row["fixed_sample_loss"]
        ]


def draw_curve(curve: Curve, path: Path) -> None:
    """Write a PNG: loss and exact replies against steps. Needs matplotlib (the `train` extra)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, exact = figure.subplots(1, 2)
    steps = [point.step for point in curve.training]
    for axes, name in ((losses, "loss"), (exact, "exact")):
        batches = [getattr(point, name) for point in curve.training]
        axes.plot(steps, smooth(batches), color="C0", label="batch, smoothed")
        fixed = curve.validation
        places, found = [one.step for one in fixed], [getattr(one, name) for one in fixed]
        axes.plot(places, found, "o-", color="C1", markersize=3, label="fixed sample")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    losses.set(xlabel="step", ylabel="nats per token of a reply", yscale="log")
    exact.set(xlabel="step", ylabel="replies exact, token by token", ylim=(0, 1))
    figure.savefig(path, dpi=120)


def _cells(point: Point | None) -> list[str]:
    return ["", ""] if point is None else [f"{point.loss:.6g}", f"{point.exact:.6g}"]
