"""`kalmagrove bench pages`: attention over facts in 8 and 4 bits. No server takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kan.kernels import KernelsName
from server.cli.bench_layers import numbers
from server.cli.measuring import measure_alone


def pages(
    facts: Annotated[int, typer.Option(min=1, max=64, help="Facts mounted at once.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, max=512, help="Tokens of a fact.")] = 40,
    rows: Annotated[str, typer.Option(help="Rows computed together; 1 is a decode step.")] = "1,32",
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Measurements per series.")] = 40,
    kernels: Annotated[KernelsName, typer.Option(help="What computes.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Attention over facts whose pages are in 8 and in 4 bits, beside pages in the model's own numbers."""
    from loadtests.pages import PagesPlan, run
    from server.engine.dtype import choose_dtype

    measure_alone(
        "pages",
        lambda progress: run(
            PagesPlan(facts, tokens, numbers(rows), count, seed, kernels, choose_dtype("auto")), progress
        ),
        json,
    )
