"""`kalmagrove bench attention`: the kernels alone, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.console import USAGE, CommandError, fail, output, progress_bar


def attention(
    shortest: Annotated[int, typer.Option(min=256, help="Shortest context, in tokens.")] = 1024,
    longest: Annotated[int, typer.Option(min=512, help="Longest context; lengths double up to it.")] = 131_072,
    blocks: Annotated[int, typer.Option(min=1, help="Of √n attention: blocks that a row chooses.")] = 80,
    threshold: Annotated[int, typer.Option(min=0, help="Of √n attention: tokens whose rows see everything.")] = 4096,
    heads: Annotated[int, typer.Option(min=1, help="Query heads.")] = 9,
    kv_heads: Annotated[int, typer.Option(min=1, help="Heads of keys and values.")] = 3,
    head_dim: Annotated[int, typer.Option(min=2, help="Width of a head.")] = 64,
    chunk: Annotated[int, typer.Option(min=16, help="Rows of a prompt that are computed together.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the report as a PNG.")] = None,
) -> None:
    """One layer of full and of √n attention, prompts and single rows: CPU time and memory as the context grows.

    With --json, a run that was cut off goes on behind what it had measured (FILE.partial.jsonl).
    """
    from loadtests.attention.measure import Shape
    from loadtests.attention.plot import write_plot
    from loadtests.attention.run import AttentionPlan, run
    from loadtests.attention.tables import print_tables
    from loadtests.peers.plot import PlotError, require_matplotlib
    from loadtests.report import write_json

    try:
        if plot:
            require_matplotlib()
        plan = AttentionPlan(shortest, longest, blocks, threshold, threads, Shape(heads, kv_heads, head_dim, chunk))
    except (PlotError, ValueError) as error:
        fail(CommandError(str(error), USAGE))
    try:
        with progress_bar() as bar:
            task = bar.add_task("measuring", total=None)
            report = run(
                plan,
                lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
                json.with_suffix(".partial.jsonl") if json else None,
            )
        if json:
            write_json(report, json)
        if plot:
            write_plot(report, plot)
    except ValueError as error:
        fail(CommandError(str(error), USAGE))
    except OSError as error:
        fail(CommandError(str(error)))
    print_tables(report, output())
