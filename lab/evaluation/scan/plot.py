"""The runs as a picture: exact match of every split and model, and how the loss fell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.evaluation.plot import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lab.evaluation.scan.stored import ScanRun


def draw_runs(runs: Sequence[ScanRun], path: Path) -> None:
    """A PNG. Raises PlotError or OSError."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    matches, losses = figure.subplots(1, 2)
    _draw_matches(runs, matches)
    _draw_losses(runs, losses)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_matches(runs: Sequence[ScanRun], axes: Axes) -> None:
    """Every seed a point."""
    splits, models = (list(dict.fromkeys(names)) for names in ([r.split for r in runs], [r.model for r in runs]))
    for place, model in enumerate(models):
        found = [run for run in runs if run.model == model]
        across = [splits.index(run.split) + 0.2 * (place - (len(models) - 1) / 2) for run in found]
        axes.plot(across, [100 * run.exact.mean for run in found], "o", color=f"C{place}", label=model)
    axes.set_xticks(range(len(splits)), splits)
    axes.set(ylabel="test part exact, %", ylim=(-3, 103))
    axes.legend(frameon=False, fontsize="small")
    axes.grid(alpha=0.3)


def _draw_losses(runs: Sequence[ScanRun], axes: Axes) -> None:
    """Of the first split, on the fixed sample of its training part."""
    models = list(dict.fromkeys(run.model for run in runs))
    for run in runs:
        if run.split == runs[0].split:
            axes.plot(*zip(*run.curve, strict=True), color=f"C{models.index(run.model)}", linewidth=1)
    axes.set(xlabel="step", ylabel="nats per token of a reply", yscale="log")
    axes.set_title(f"training part of {runs[0].split}" if runs else "", fontsize="small")
    axes.grid(alpha=0.3)
