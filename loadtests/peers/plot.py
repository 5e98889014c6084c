"""The report as a picture: a bar for each system and measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.peers.run import STREAMS
from loadtests.peers.summary import AGAIN, FIRST, RIGHT, TOKEN, WHOLE, of, rate
from loadtests.report import Report
from loadtests.stats import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHERS = "tab:green", "tab:gray"
PANELS = ((FIRST, AGAIN, TOKEN, WHOLE), (*(rate(streams) for streams in (1, *STREAMS)), RIGHT))


class PlotError(Exception):
    """The picture cannot be drawn; the message says why."""


def require_matplotlib() -> None:
    """Raises PlotError. Called before the measurements, so that they are not lost to a missing package."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PlotError("--plot needs matplotlib: pip install 'kalmagrove[loadtest]'") from None


def write_plot(report: Report, path: Path) -> None:
    """A PNG. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 1.2 + 0.75 * len(report.notes)), layout="constrained")
    grid = figure.subplots(len(PANELS), len(PANELS[0]), sharey=True)
    for row, measures in zip(grid, PANELS, strict=True):
        for axes, measure in zip(row, measures, strict=True):
            _draw(report, measure, axes)
    figure.suptitle(f"{report.model}: the same weights, facts and questions, one system at a time")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw(report: Report, measure: str, axes: Axes) -> None:
    """Medians, with the 99th percentile as a tick where somebody waits; shares with their interval."""
    systems = list(report.notes)[::-1]
    for place, system in enumerate(systems):
        low = high = None
        if (estimate := report.estimates.get(of(measure, system))) is not None:
            value, low, high = estimate.value, estimate.low, estimate.high
        elif (summary := report.series.get(of(measure, system))) is not None:
            value = summary.median
            low, high = (value, summary.p99) if measure in (FIRST, AGAIN, WHOLE) else (None, None)
        else:
            continue
        axes.barh(place, value, color=OURS if place == len(systems) - 1 else OTHERS, height=0.7)
        if low is not None and high is not None:
            axes.errorbar(value, place, xerr=[[value - low], [high - value]], color="black", capsize=2, lw=1)
        axes.annotate(f" {number(value)}", (high or value, place), va="center", fontsize=8)
    axes.set_yticks(range(len(systems)), systems, fontsize=8)
    axes.set_title(measure, fontsize=9)
    axes.margins(x=0.25)
