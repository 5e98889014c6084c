"""The report as a picture: accuracy against distractors for every set, and the reliability of `grounded`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import PlotError
from lab.evaluation.report import Findings, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMPHASISED = ("prompt", "learned")
"""Drawn with their intervals."""
COLORS = (*(f"C{number}" for number in range(10)), "black", "gold")


def require_matplotlib() -> None:
    """Raises PlotError. Called before the measurements, so that they are not lost to a missing package."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PlotError("--plot needs matplotlib: pip install 'kalmagrove[train]'") from None


def write_plot(report: Report, path: Path) -> None:
    """A PNG. Raises PlotError or OSError."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reliabilities = [findings for findings in report.findings if findings.bins]
    panels = len(report.sets) + len(reliabilities)
    if not panels:
        raise PlotError("nothing was measured that could be drawn")
    figure = Figure(figsize=(4.6 * min(panels, 3), 3.8 * -(-panels // 3) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(-(-panels // 3), min(panels, 3), squeeze=False).flat)
    for dataset, one in zip(report.sets, axes, strict=False):
        _draw_set(report, dataset, one)
    for findings, one in zip(reliabilities, axes[len(report.sets) :], strict=False):
        _draw_reliability(findings, one)
    for one in axes[panels:]:
        one.set_axis_off()
    if report.sets:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_set(report: Report, dataset: str, axes: Axes) -> None:
    places = list(range(len(report.distractors)))
    for number, (condition, meaning) in enumerate(report.meanings.items()):
        cells = [report.cell(dataset, condition, count) for count in report.distractors]
        if not all(cells):
            continue
        estimates = [cell.right() for cell in cells if cell]
        strong = condition in EMPHASISED
        color = COLORS[number % len(COLORS)]
        style: dict[str, Any] = {"color": color, "linestyle": "-" if strong else "--"}
        axes.plot(places, [100 * e.mean for e in estimates], label=meaning, marker="o", lw=2 if strong else 1, **style)
        if strong:  # ten bands over each other would hide the lines
            low, high = [100 * e.low for e in estimates], [100 * e.high for e in estimates]
            axes.fill_between(places, low, high, color=color, alpha=0.15, lw=0)
    axes.set(title=dataset, xlabel="distractors", ylabel="answer contains gold, %", ylim=(-2, 102))
    axes.set_xticks(places, [str(count) for count in report.distractors])


def _draw_reliability(findings: Findings, axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    axes.plot([one.predicted for one in findings.bins], [one.observed for one in findings.bins], marker="o")
    for one in findings.bins:
        axes.annotate(str(one.n), (one.predicted, one.observed), fontsize=7, xytext=(3, -9), textcoords="offset points")
    axes.set(
        title=findings.title.split(":")[0],
        xlabel="grounded",
        ylabel="gold fact was mounted",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
