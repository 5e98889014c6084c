"""`kalmagrove bench filters`: searches among facts whose metadata passes. No server takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.measuring import measure_alone


def filters(
    facts: Annotated[int, typer.Option(min=16, max=2_000_000, help="Facts in the index.")] = 100_000,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Measurements per series.")] = 500,
    seed: Annotated[int, typer.Option(help="Of facts, questions and vectors.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Searches with filters that pass one fact in 10, 1,000 and 100,000: time, and recall against exact."""
    from loadtests.filters import FiltersPlan, run

    measure_alone("filters", lambda progress: run(FiltersPlan(facts, count, seed), progress), json)
