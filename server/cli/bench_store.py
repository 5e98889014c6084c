"""`kalmagrove bench store`: the knowledge store at some size. No server takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.measuring import measure_alone


def store(
    facts: Annotated[int, typer.Option(min=16, max=2_000_000, help="Facts in the store.")] = 100_000,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Measurements per series.")] = 300,
    seed: Annotated[int, typer.Option(help="Of facts and questions.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Imports facts into a store of its own; search, edits, starts, memory and disk at that size."""
    from loadtests.store import StorePlan, run

    measure_alone("store", lambda progress: run(StorePlan(facts, count, seed), progress), json)
