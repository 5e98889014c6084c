"""`kalmagrove bench`: the load tests, against a running server or one of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.console import FAILED, CommandError, fail, messages, output, progress_bar
from server.cli.options import DEFAULT_SERVER, AdminKey, ClientKey, DataDir, Server

if TYPE_CHECKING:
    from loadtests.client import Target
    from loadtests.report import Report
    from loadtests.scenario import Options, Progress

    Scenario = Callable[[Options, Progress], Coroutine[Any, Any, Report]]

app = typer.Typer(help="Measure a server as its clients see it.", no_args_is_help=True)

Count = Annotated[int, typer.Option(min=1, max=100_000, help="Measurements per series.")]
Facts = Annotated[int, typer.Option(min=16, max=5000, help="Facts to load, into a namespace of their own.")]
Seed = Annotated[int, typer.Option(help="Seed of the facts and questions.")]
MaxSeconds = Annotated[float, typer.Option(min=1, help="Stop measuring after this time.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")]
Serve = Annotated[
    bool, typer.Option("--serve", help="Start a server for this run: free port, empty store, models of --data-dir.")
]


_SCENARIOS = (
    ("ttft", 200, 1000, "Time to first token: facts mounted as pages, and the same facts pasted into the prompt."),
    ("edit", 200, 1000, "Edits of one fact, acknowledged = durable and visible: idle, and under 4 streams."),
    ("recency", 1000, 64, "Edits, each followed at once by a question on another connection: none may be older."),
    ("throughput", 208, 1000, "16 concurrent streams against one: tokens per second, gaps, time to first token."),
)
"""Module under loadtests, default count, default number of facts, help."""


def _command(scenario: str, default_count: int, default_facts: int) -> Callable[..., None]:
    def command(
        server: Server = DEFAULT_SERVER,
        key: ClientKey = None,
        admin_key: AdminKey = None,
        serve: Serve = False,
        data_dir: DataDir = Path("data"),
        count: Count = default_count,
        facts: Facts = default_facts,
        seed: Seed = 1,
        max_seconds: MaxSeconds = 900.0,
        json: Json = None,
    ) -> None:
        from loadtests.scenario import Options

        with _target(server, key, admin_key, data_dir if serve else None) as target:
            run = import_module(f"loadtests.{scenario}").run
            _measure(run, Options(target, count, facts, seed, max_seconds), json)

    return command


for _name, _count, _facts, _help in _SCENARIOS:
    app.command(_name, help=_help)(_command(_name, _count, _facts))


@app.command()
def phi(
    data_dir: DataDir = Path("data"),
    count: Count = 200,
    facts: Facts = 1000,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 900.0,
    json: Json = None,
) -> None:
    """What φ costs: time to first token of two servers of its own, one of them with KALMAGROVE_PHI=none."""
    from loadtests.phi import run
    from loadtests.scenario import Options

    with _own_server(data_dir) as target, _own_server(data_dir, {"KALMAGROVE_PHI": "none"}) as plain:

        def scenario(options: Options, progress: Progress) -> Coroutine[Any, Any, Report]:
            return run(options, plain, progress)

        _measure(scenario, Options(target, count, facts, seed, max_seconds), json)


@contextmanager
def _target(server: str, key: str | None, admin_key: str | None, data_dir: Path | None) -> Iterator[Target]:
    """The server to measure. With a data directory, one started for the purpose."""
    from loadtests.client import Target

    if data_dir is None:
        yield Target(server, key, admin_key)
        return
    with _own_server(data_dir) as target:
        yield target


@contextmanager
def _own_server(data_dir: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Target]:
    from loadtests.serving import ServerStartError, temporary_server

    messages().print("starting a server…")
    try:
        with temporary_server(data_dir, settings) as target:
            yield target
    except ServerStartError as error:
        fail(CommandError(str(error)))


def _measure(scenario: Scenario, options: Options, json: Path | None) -> None:
    from loadtests.client import RequestError
    from loadtests.report import print_report, write_json

    try:
        with progress_bar() as bar:
            task = bar.add_task("connecting", total=None)

            def progress(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            report = asyncio.run(scenario(options, progress))
        if json:
            write_json(report, json)
    except (RequestError, OSError) as error:
        fail(CommandError(str(error)))
    print_report(report, output())
    if report.failures:
        raise typer.Exit(FAILED)
