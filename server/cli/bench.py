"""`kalmagrove bench`: the load tests, against a running server or one of their own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.bench_attention import attention
from server.cli.bench_filters import filters
from server.cli.bench_layers import layers
from server.cli.bench_pages import pages
from server.cli.bench_replicas import replicas
from server.cli.bench_store import store
from server.cli.measuring import measure, own_server
from server.cli.options import DEFAULT_SERVER, AdminKey, AdminUrl, ClientKey, DataDir, Server
from server.cli.peers import peers

if TYPE_CHECKING:
    from loadtests.report import Report
    from loadtests.scenario import Options, Progress

app = typer.Typer(help="Measure a server as its clients see it.", no_args_is_help=True)

Count = Annotated[int, typer.Option(min=1, max=100_000, help="Measurements per series.")]
Facts = Annotated[int, typer.Option(min=16, max=5000, help="Facts to load, into a namespace of their own.")]
Seed = Annotated[int, typer.Option(help="Seed of the facts and questions.")]
MaxSeconds = Annotated[float, typer.Option(min=1, help="Stop measuring after this time.")]
Seconds = Annotated[float, typer.Option(min=1, help="How long the load lasts.")]
Pause = Annotated[float, typer.Option(min=0, help="Seconds that each client waits before its next request.")]
Rounds = Annotated[int, typer.Option(min=1, max=1000, help="How often the server is told to end.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")]
Serve = Annotated[
    bool, typer.Option("--serve", help="Start a server for this run: free port, empty store, models of --data-dir.")
]


_SCENARIOS = (
    ("ttft", 200, 1000, "Time to first token: facts mounted as pages, and the same facts pasted into the prompt."),
    ("edit", 200, 1000, "Edits of one fact, acknowledged = durable and visible: idle, and under 4 streams."),
    ("recency", 1000, 64, "Edits, each followed at once by a question on another connection: none may be older."),
    ("form", 40, 16, "Time per token of answers that must be JSON of a schema, against free ones."),
    ("throughput", 208, 1000, "16 concurrent streams against one: tokens per second, gaps, time to first token."),
)
"""Module under loadtests, default count, default number of facts, help."""


def _command(scenario: str, default_count: int, default_facts: int) -> Callable[..., None]:
    def command(
        server: Server = DEFAULT_SERVER,
        admin_server: AdminUrl = None,
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
        from loadtests.client import Target
        from loadtests.scenario import Options

        named = Target(server, key, admin_key, admin_server)
        _run(scenario, Options(named, count, facts, seed, max_seconds), data_dir if serve else None, json)

    return command


for _name, _count, _facts, _help in _SCENARIOS:
    app.command(_name, help=_help)(_command(_name, _count, _facts))


@app.command()
def cold(
    data_dir: DataDir = Path("data"),
    count: Count = 200,
    facts: Annotated[int, typer.Option(min=16, max=1_000_000, help="Facts, asked uniformly.")] = 100_000,
    pages_seconds: Annotated[
        float, typer.Option(min=0, help="How long pages are made in the background before the questions begin.")
    ] = 120.0,
    seed: Seed = 1,
    max_seconds: MaxSeconds = 3600.0,
    json: Json = None,
) -> None:
    """First token of a server of its own with many facts: of a fact asked for the first time, and again at once."""
    from loadtests.cold import run
    from loadtests.scenario import Options

    with own_server(data_dir) as target:
        measure(partial(run, pages_seconds), Options(target, count, facts, seed, max_seconds=max_seconds), json)


@app.command()
def overload(
    server: Server = DEFAULT_SERVER,
    admin_server: AdminUrl = None,
    key: ClientKey = None,
    admin_key: AdminKey = None,
    serve: Serve = False,
    data_dir: DataDir = Path("data"),
    seconds: Seconds = 180.0,
    facts: Facts = 64,
    seed: Seed = 1,
    json: Json = None,
) -> None:
    """Five times what the server takes: accepted answers stay in time, the rest get 429 at once."""
    from loadtests.client import Target
    from loadtests.scenario import Options

    named = Target(server, key, admin_key, admin_server)
    _run("overload", Options(named, 1, facts, seed, max_seconds=seconds), data_dir if serve else None, json)


@app.command()
def soak(
    server: Server = DEFAULT_SERVER,
    admin_server: AdminUrl = None,
    key: ClientKey = None,
    admin_key: AdminKey = None,
    serve: Serve = False,
    data_dir: DataDir = Path("data"),
    seconds: Seconds = 1800.0,
    pause: Pause = 0.0,
    facts: Facts = 256,
    seed: Seed = 1,
    json: Json = None,
) -> None:
    """A mixed load for long: memory, pages, file handles and threads must not grow."""
    from loadtests.client import Target
    from loadtests.scenario import Options

    named = Target(server, key, admin_key, admin_server)
    options = Options(named, 1, facts, seed, max_seconds=seconds, pause=pause)
    _run("soak", options, data_dir if serve else None, json)


@app.command()
def drain(
    data_dir: DataDir = Path("data"),
    rounds: Rounds = 8,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long the load lasts before SIGTERM.")] = 4.0,
    facts: Facts = 64,
    seed: Seed = 1,
    admin_apart: Annotated[
        bool, typer.Option("--admin-apart", help="/admin has a listener of its own, and both are under load.")
    ] = False,
    json: Json = None,
) -> None:
    """SIGTERM under load, to a server of its own, again and again: no accepted request and no edit may be lost."""
    from loadtests.client import Target
    from loadtests.drain import run
    from loadtests.scenario import Options

    def scenario(options: Options, progress: Progress) -> Coroutine[Any, Any, Report]:
        return run(options, data_dir, progress, admin_apart=admin_apart)

    measure(scenario, Options(Target(""), rounds, facts, seed, max_seconds=seconds), json)


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

    with own_server(data_dir) as target, own_server(data_dir, {"KALMAGROVE_PHI": "none"}) as plain:

        def scenario(options: Options, progress: Progress) -> Coroutine[Any, Any, Report]:
            return run(options, plain, progress)

        measure(scenario, Options(target, count, facts, seed, max_seconds), json)


app.command()(peers)
app.command()(layers)
app.command()(pages)
app.command()(filters)
app.command()(store)
app.command()(replicas)
app.command()(attention)


def _run(scenario: str, options: Options, data_dir: Path | None, json: Path | None) -> None:
    """On the server that the options name or, with a data directory, on one started for the purpose."""
    own = nullcontext(options.target) if data_dir is None else own_server(data_dir)
    with own as target:
        measure(import_module(f"loadtests.{scenario}").run, replace(options, target=target), json)
