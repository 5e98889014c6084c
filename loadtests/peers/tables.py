"""The report as two tables in Markdown: what was measured, and how many times the first system is ahead."""

from __future__ import annotations

from rich.box import MARKDOWN
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.peers.run import STREAMS
from loadtests.peers.summary import AGAIN, FIRST, RIGHT, TOKEN, WHOLE, ahead, of, rate
from loadtests.report import Report, print_failures
from loadtests.stats import number

RATES = tuple(rate(streams) for streams in (1, *STREAMS))
MEASURES = (FIRST, AGAIN, TOKEN, WHOLE, *RATES)
WIDTH = 400
"""Of the tables: a row is never broken, so that it can be copied."""


def print_tables(report: Report, console: Console) -> None:
    wide = Console(file=console.file, width=max(WIDTH, console.width), highlight=False)
    systems = list(report.notes)
    measured = Table("median (p99)", *MEASURES, RIGHT, box=MARKDOWN)
    for system in systems:
        right = report.estimates.get(of(RIGHT, system))
        cells = [_median(report, measure, system) for measure in MEASURES]
        measured.add_row(system, *cells, escape(str(right)) if right else "")
    wide.print(measured)
    faster = Table(f"{systems[0]}, times faster than", *MEASURES, box=MARKDOWN)
    for system in systems[1:]:
        ratios = [report.estimates.get(ahead(measure, system)) for measure in MEASURES]
        faster.add_row(system, *(escape(str(ratio)) if ratio else "" for ratio in ratios))
    wide.print(faster)
    for system, about in report.notes.items():
        wide.print(f"* {system}: {escape(about)}")
    counts = {summary.n for name, summary in report.series.items() if name.startswith(f"{FIRST}: ")}
    wide.print(f"n = {', '.join(map(str, sorted(counts)))} questions; intervals are of 95 %")
    print_failures(report, console)


def _median(report: Report, measure: str, system: str) -> str:
    summary = report.series.get(of(measure, system))
    if summary is None:
        return ""
    # The 99th percentile is of interest where somebody waits.
    return number(summary.median) + (f" ({number(summary.p99)})" if measure in (FIRST, AGAIN, WHOLE) else "")
