"""`kalmagrove bench store`: the knowledge store at some size. No server takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.measuring import measure_alone
from server.cli.options import DataDir


def store(
    facts: Annotated[int, typer.Option(min=16, max=2_000_000, help="Facts in the store.")] = 100_000,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Measurements per series.")] = 300,
    seed: Annotated[int, typer.Option(help="Of facts and questions.")] = 1,
    embedded: Annotated[
        int,
        typer.Option(min=1000, help="So many facts are embedded; vectors of further ones are theirs, moved a little."),
    ] = 200_000,
    streams: Annotated[
        bool, typer.Option("--streams", help="Also beside 4 streams of a server with the models of --data-dir.")
    ] = False,
    data_dir: DataDir = Path("data"),
    max_seconds: Annotated[float, typer.Option(min=1, help="Begin nothing more after this time.")] = 3600.0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Imports facts into a store of its own; search, edits, starts, memory and disk at that size."""
    from loadtests.store import StorePlan, run

    plan = StorePlan(facts, count, seed, embedded, max_seconds, data_dir if streams else None)
    measure_alone("store", lambda progress: run(plan, progress), json)
