"""`kalmagrove kb backup` and `restore`: of a store directory or a database, whether or not a server has it open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.console import CONFLICT, CommandError, fail, messages, progress_bar

if TYPE_CHECKING:
    from kb.loading import Progress
    from kb.verification import Verified

Log = Annotated[str, typer.Argument(help="A store directory (data/kb), or postgresql://…")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Even if there is something already, which is lost.")]


def backup(
    store: Log,
    file: Annotated[Path, typer.Argument(help="Where to write it: appears when it is whole.")],
    overwrite: Overwrite = False,
) -> None:
    """Write one version and all of its history into a file, checked. Servers may run and edits go on."""
    from kb.backup.making import back_up

    found = _done(lambda progress: back_up(store, file, overwrite=overwrite, progress=progress))
    messages().print(f"{found.facts} facts at version {found.version} backed up", highlight=False)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    store: Log,
    overwrite: Overwrite = False,
) -> None:
    """Make a store what a backup holds, if all of that is sound. No server may have the directory open."""
    from kb.backup.restoring import restore as bring_back

    found = _done(lambda progress: bring_back(file, store, overwrite=overwrite, progress=progress))
    messages().print(f"{found.facts} facts at version {found.version} restored", highlight=False)


def _done(work: Callable[[Progress], Verified]) -> Verified:
    from kb.backup.making import NotOverwritten
    from kb.errors import KnowledgeError

    try:
        with progress_bar() as bar:
            task = bar.add_task("checking the log", total=None)
            return work(lambda done, total: bar.update(task, completed=done, total=total))
    except NotOverwritten as error:
        fail(CommandError(f"{error}; --overwrite replaces it", CONFLICT))
    except KnowledgeError as error:
        fail(CommandError(str(error)))
