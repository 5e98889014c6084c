"""`kalmagrove bench layers`: what a group saves a linear layer. No server takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.measuring import measure_alone


def layers(
    group: Annotated[str, typer.Option(help="Which group, as a model's configuration spells it.")] = "cyclic(8)",
    widths: Annotated[str, typer.Option(help="Inputs and outputs of a layer.")] = "1024,2048,4096",
    rows: Annotated[str, typer.Option(help="Rows of one call; 1 is a decode step of one sequence.")] = "1,256",
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Measurements per series.")] = 40,
    dtype: Annotated[str, typer.Option(help="Of weights and rows: float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Linear layers that commute with a group, their weights compressed, beside the dense ones that they stand for."""
    from loadtests.layers import LayerPlan, run

    measure_alone(
        "layers",
        lambda progress: run(LayerPlan(group, numbers(widths), numbers(rows), count, seed, dtype), progress),
        json,
    )


def numbers(given: str) -> tuple[int, ...]:
    """An option's list. Raises ValueError."""
    try:
        found = tuple(int(one) for one in given.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ValueError(f"{given!r} is no list of numbers from 1")
    return found
