"""The report as a picture: time against the length of the context, both axes logarithmic, with the fitted lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtests.attention.run import FULL, LEAST, NATIVE, SQRT
from loadtests.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {FULL: "tab:gray", SQRT: "tab:green", FULL + NATIVE: "tab:brown", SQRT + NATIVE: "tab:blue"}


def write_plot(report: Report, path: Path) -> None:
    """A PNG. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    prefill, decode, memory = figure.subplots(1, 3)
    _draw(report, "prefill", "ms", prefill)
    _draw(report, "decode step", "ms", decode)
    _draw(report, "working memory", "KiB per row", memory)
    figure.suptitle(f"one layer: {report.model}; {report.server}; {report.notes['sqrt']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw(report: Report, what: str, unit: str, axes: Axes) -> None:
    lengths = np.array(report.samples["tokens"])
    for kind, color in COLORS.items():
        if (series := f"{what}, {kind} ({unit})") not in report.samples:
            continue
        values = np.array(report.samples[series])
        label, power = f"{kind} attention", report.figures.get(f"exponent, {what}, {kind}")
        if power is not None:
            fitted = lengths >= LEAST
            level = np.log(values[fitted]).mean() - power * np.log(lengths[fitted]).mean()
            axes.loglog(lengths[fitted], np.exp(level) * lengths[fitted] ** power, "--", color=color, lw=1)
            label += f": n^{power:.2f}"
        axes.loglog(lengths, values, "o", color=color, label=label)
    axes.set(title=what, xlabel="tokens of context", ylabel=unit)
    axes.legend()
