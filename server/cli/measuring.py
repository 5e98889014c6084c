"""What every `bench` command does: a server of its own where it is wanted, progress, the report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer

from server.cli.console import FAILED, USAGE, CommandError, fail, messages, output, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from loadtests.client import Target
    from loadtests.report import Report
    from loadtests.scenario import Options, Progress

    Scenario = Callable[[Options, Progress], Coroutine[Any, Any, Report]]
    Show = Callable[[Report, Console], None]


@contextmanager
def own_server(data_dir: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Target]:
    """A server for this run. Ends the command if it does not start."""
    from loadtests.serving import ServerStartError, temporary_server

    messages().print("starting a server…")
    try:
        with temporary_server(data_dir, settings) as target:
            yield target
    except ServerStartError as error:
        fail(CommandError(str(error)))


def measure(scenario: Scenario, options: Options, json: Path | None, show: Show | None = None) -> None:
    """Run it, write the report, show it; ends the command if it failed or is no evidence."""
    from loadtests.refusals import RequestError
    from loadtests.report import print_report, write_json
    from loadtests.serving import ServerStartError

    try:
        with progress_bar() as bar:
            task = bar.add_task("connecting", total=None)

            def progress(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            report = asyncio.run(scenario(options, progress))
        if json:
            write_json(report, json)
    except (RequestError, ServerStartError, OSError) as error:
        fail(CommandError(str(error)))
    (show or print_report)(report, output())
    if report.failures:
        raise typer.Exit(FAILED)


def measure_alone(what: str, run: Callable[[Progress], Report], json: Path | None) -> None:
    """The same for what needs no server. ValueError is a plan that cannot be carried out."""
    from loadtests.refusals import RequestError
    from loadtests.report import print_report, write_json
    from loadtests.serving import ServerStartError

    try:
        with progress_bar() as bar:
            task = bar.add_task(what, total=None)
            report = run(lambda what, done, all_: bar.update(task, description=what, completed=done, total=all_))
        if json:
            write_json(report, json)
    except ValueError as error:
        fail(CommandError(str(error), USAGE))
    except (RequestError, ServerStartError, OSError) as error:
        fail(CommandError(str(error)))
    print_report(report, output())
    if report.failures:
        raise typer.Exit(FAILED)
