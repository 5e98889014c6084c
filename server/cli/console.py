"""How the command line speaks: results to stdout, everything else to stderr, failures as one line and an exit code."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
CONFLICT = 5


class CommandError(Exception):
    """A failure to be told in one line, with the exit code it ends in."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def output() -> Console:
    """Where results go."""
    return Console()


def messages() -> Console:
    """Where progress and failures go, so that results can be piped."""
    return Console(stderr=True)


def fail(error: CommandError) -> NoReturn:
    """Tell the failure and end the command."""
    messages().print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(error.code)


def progress_bar() -> Progress:
    """A bar on stderr that counts what it does; silent when stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=messages(),
        disable=not messages().is_terminal,
    )
