"""`kalmagrove bench replicas`: servers that share a facts log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.measuring import measure
from server.cli.options import DataDir

if TYPE_CHECKING:
    from loadtests.report import Report
    from loadtests.scenario import Options, Progress


def replicas(
    data_dir: DataDir = Path("data"),
    servers: Annotated[int, typer.Option(min=2, max=16, help="How many are started.")] = 3,
    database: Annotated[
        str | None,
        typer.Option(help="URL of an empty PostgreSQL; none: one of its own (Debian's postgresql)."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Edits measured.")] = 200,
    facts: Annotated[int, typer.Option(min=16, max=5000, help="Facts to load, into a namespace of their own.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the facts.")] = 1,
    max_seconds: Annotated[float, typer.Option(min=1, help="Stop measuring after this time.")] = 900.0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Edits at servers that share a log: acknowledged, visible at all of them, and read by their version anywhere."""
    from loadtests.client import Target
    from loadtests.replicas import run
    from loadtests.scenario import Options

    def scenario(options: Options, progress: Progress) -> Coroutine[Any, Any, Report]:
        return run(options, data_dir, progress, replicas=servers, database_url=database)

    measure(scenario, Options(Target(""), count, facts, seed, max_seconds), json)
