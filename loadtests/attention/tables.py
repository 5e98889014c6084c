"""The report for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from loadtests.report import Report, print_report
from loadtests.stats import number


def print_tables(report: Report, console: Console) -> None:
    table = Table("tokens", title="one layer")
    series = {name: values for name, values in report.samples.items() if name != "tokens"}
    for name in series:
        table.add_column(name, justify="right")
    for tokens, *values in zip(report.samples["tokens"], *series.values(), strict=True):
        table.add_row(f"{tokens:.0f}", *map(number, values))
    console.print(table)
    print_report(report, console)
