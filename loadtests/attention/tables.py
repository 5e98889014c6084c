"""The report for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from loadtests.report import Report, print_report
from loadtests.stats import number


def print_tables(report: Report, console: Console) -> None:
    table = Table("tokens", title="one layer")
    for tokens in report.samples["tokens"]:
        table.add_column(f"{tokens:.0f}", justify="right")
    for name, values in report.samples.items():
        if name != "tokens":
            table.add_row(name, *map(number, values))
    console.print(table)
    print_report(report, console)
