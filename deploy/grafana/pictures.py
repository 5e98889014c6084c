"""Draw dashboards without Grafana: every panel's query, asked of Prometheus, as one PNG per dashboard.

`python -m deploy.grafana.pictures http://127.0.0.1:9090 docs`
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.grafana.generate import DIRECTORY
from deploy.grafana.panels import PER_ROW

VARIABLES = {"$__rate_interval": "1m", "$instance": ".*"}
POINTS = 120
MOST_LINES = 12
"""Lines of one panel that still can be told apart."""

Series = dict[str, Any]
"""As Prometheus gives it: `metric` (labels) and `values` ((unix seconds, number as text), …)."""


def draw(prometheus: str, out: Path, seconds: float = 1800.0) -> list[Path]:
    """One PNG per dashboard of the last `seconds`. Raises httpx.HTTPError if Prometheus does not answer."""
    matplotlib.use("agg")
    end = time.time()
    period: dict[str, float] = {"start": end - seconds, "end": end, "step": max(1.0, seconds / POINTS)}
    with httpx.Client(base_url=prometheus, trust_env=False) as client:
        return [_draw_board(client, path, out, period) for path in sorted(DIRECTORY.glob("*.json"))]


def concrete(promql: str) -> str:
    """The expression with Grafana's variables replaced."""
    for name, value in VARIABLES.items():
        promql = promql.replace(name, value)
    return promql


def _draw_board(client: httpx.Client, path: Path, out: Path, period: Mapping[str, float]) -> Path:
    board = json.loads(path.read_text("utf-8"))
    found = [(panel, _ask(client, panel, period)) for panel in board["panels"] if panel["type"] != "row"]
    alive = [(panel, series) for panel, series in found if series]
    rows = -(-len(alive) // PER_ROW)
    figure = Figure(figsize=(5.2 * PER_ROW, 2.9 * rows), layout="constrained")
    figure.suptitle(board["title"])
    for place, (panel, series) in enumerate(alive, 1):
        axes = figure.add_subplot(rows, PER_ROW, place)
        axes.set_title(panel["title"], fontsize=9)
        (_draw_heat if panel["type"] == "heatmap" else _draw_lines)(axes, series, period["start"])
    picture = out / f"dashboard-{path.stem}.png"
    figure.savefig(picture, dpi=70)
    return picture


def _ask(client: httpx.Client, panel: Mapping[str, Any], period: Mapping[str, float]) -> list[tuple[str, Series]]:
    """(legend, series) of every query."""
    found = []
    for target in panel["targets"]:
        query: dict[str, str | float] = {"query": concrete(target["expr"]), **period}
        answer = client.get("/api/v1/query_range", params=query).raise_for_status().json()
        found += [(_legend(target["legendFormat"], one["metric"]), one) for one in answer["data"]["result"]]
    return found


def _legend(pattern: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), pattern)


def _numbers(series: Series) -> tuple[np.ndarray, np.ndarray]:
    times, values = zip(*series["values"], strict=True)
    return np.array(times, dtype=np.float64), np.array(values, dtype=np.float64)


def _draw_lines(axes: Axes, found: Sequence[tuple[str, Series]], start: float) -> None:
    for legend, series in found[:MOST_LINES]:
        times, values = _numbers(series)
        axes.plot(times - start, values, label=legend, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, loc="upper left")


def _draw_heat(axes: Axes, found: Sequence[tuple[str, Series]], start: float) -> None:
    """Prometheus counts cumulatively; here each bucket has its own."""
    buckets = sorted(((float(series["metric"]["le"]), _numbers(series)) for _, series in found), key=lambda one: one[0])
    times = buckets[0][1][0]
    whole = np.array([np.interp(times, *numbers) for _, numbers in buckets])
    counts = np.diff(whole, axis=0, prepend=np.zeros((1, len(times))))
    filled = np.flatnonzero(counts.sum(axis=1) > 0)
    if not len(filled):
        return
    shown = slice(max(0, filled[0] - 1), filled[-1] + 1)
    axes.pcolormesh(times - start, np.arange(len(buckets))[shown], counts[shown], cmap="magma_r", shading="nearest")
    marks = range(shown.start, shown.stop, max(1, (shown.stop - shown.start) // 6))
    axes.set_yticks(list(marks), [f"{buckets[mark][0]:g} s" for mark in marks])
    axes.tick_params(labelsize=7)


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]))
