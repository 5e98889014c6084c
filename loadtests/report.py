"""What a scenario hands back, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.stats import Estimate, Summary


@dataclass(slots=True)
class Report:
    """One run of one scenario. `failures` non-empty means that the run is no evidence."""

    scenario: str
    model: str
    server: str
    series: dict[str, Summary] = field(default_factory=dict)
    """Name with unit -> summary."""
    figures: dict[str, float] = field(default_factory=dict)
    """Name with unit -> one number (ratios, counts)."""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    """Name with unit -> one number with its interval."""
    notes: dict[str, str] = field(default_factory=dict)
    """What was measured, in words. In the JSON only."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Name with unit -> values in the order of time. In the JSON only."""
    failures: list[str] = field(default_factory=list)

    def add_series(self, name: str, values: Sequence[float], wanted: int = 1) -> None:
        """Summarise a series. Fewer values than wanted (a run cut short) is a failure of the report."""
        if values:
            self.series[name] = Summary.of(values)
        if len(values) < wanted:
            self.failures.append(f"{name}: {len(values)} of {wanted} measured before the time was over")

    def ratio(self, name: str, above: str, below: str) -> None:
        """The ratio of the medians of two series, where both exist."""
        if above in self.series and below in self.series and self.series[below].median > 0:
            self.figures[name] = self.series[above].median / self.series[below].median

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def write_json(report: Report, path: Path) -> None:
    """Raises OSError."""
    path.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.2f}"


def print_report(report: Report, console: Console) -> None:
    title = f"{report.scenario} · {report.model} · {report.server}"
    if report.series:
        table = Table("series", *("n", "median", "p99", "min", "max"), title=title)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, s in report.series.items():
            table.add_row(name, str(s.n), *(f"{v:.1f}" for v in (s.median, s.p99, s.minimum, s.maximum)))
        console.print(table)
    figures = {name: _number(value) for name, value in report.figures.items()}
    figures |= {name: str(estimate) for name, estimate in report.estimates.items()}
    if figures:
        table = Table("figure", "value", title=None if report.series else title)
        table.columns[1].justify = "right"
        for name, told in figures.items():
            table.add_row(name, escape(told))
        console.print(table)
    print_failures(report, console)


def print_failures(report: Report, console: Console) -> None:
    for failure in report.failures:
        console.print(f"[bold red]failed:[/] {escape(failure)}")
