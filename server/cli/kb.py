"""`kalmagrove kb`: look at the knowledge and edit it, in a running server or in a store directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kb.facts import SearchMethod
from server.cli import kb_backup, kb_documents, kb_tables
from server.cli.console import CommandError, fail, messages, output, progress_bar
from server.cli.kb_files import reading, writing
from server.cli.kb_options import Json, Key, Namespace, json_object, show
from server.cli.options import DEFAULT_SERVER, AdminServer
from server.cli.targets import NewFact, Written

if TYPE_CHECKING:
    from server.cli.local import Check
    from server.cli.targets import KnowledgeTarget

app = typer.Typer(
    help="Look at the knowledge and edit it: in a running server, or in a store directory.", no_args_is_help=True
)

StoreDir = Annotated[
    Path | None, typer.Option("--store", help="Use this store directory (data/kb) instead of a server.")
]
IfVersion = Annotated[int | None, typer.Option("--if-version", min=1, help="Only if this is the fact's version.")]


@app.command()
def add(
    text: Annotated[str, typer.Argument(help="The fact, as a sentence.")],
    id: Annotated[str | None, typer.Option("--id", help="An existing id is replaced; default: a new ULID.")] = None,
    namespace: Namespace = None,
    metadata: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    expires_at: Annotated[str | None, typer.Option(help="ISO 8601 with an offset: 2031-01-01T00:00:00Z.")] = None,
    if_version: Annotated[
        int | None,
        typer.Option("--if-version", min=0, help="Only if this is the fact's version; 0: only if there is none."),
    ] = None,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Add a fact, or replace the one with the same id."""
    fact = NewFact(
        id or _new_id(), namespace, text, json_object(metadata, "--metadata"), _seconds(expires_at), if_version
    )
    with _opened(server, key, store) as target:
        written = target.put(fact)
    messages().print(f"{fact.id} is in version {written.version}", highlight=False)


@app.command()
def get(
    id: Annotated[str, typer.Argument()],
    namespace: Namespace = None,
    as_json: Json = False,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Show one fact."""
    with _opened(server, key, store) as target:
        fact = target.get(namespace, id)
    show(asdict(fact)) if as_json else output().print(kb_tables.fact_table(fact))


@app.command()
def delete(
    id: Annotated[str, typer.Argument()],
    namespace: Namespace = None,
    if_version: IfVersion = None,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Delete one fact. No answer admitted after this is drawn from it."""
    with _opened(server, key, store) as target:
        written = target.delete(namespace, id, if_version)
    messages().print(f"{id} is gone from version {written.version}", highlight=False)


@app.command()
def search(
    query: Annotated[str, typer.Argument()],
    namespace: Namespace = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Most facts to show; default: 8, or the server's.")] = None,
    min_score: Annotated[float | None, typer.Option(min=-1, max=1, help="Least relevance.")] = None,
    retrieval: Annotated[
        SearchMethod | None, typer.Option(help="By meaning, by words or by both; default: both, or as the server does.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help='Only facts whose metadata satisfies this: \'{"town": {"eq": "Velm"}}\'.')
    ] = None,
    as_json: Json = False,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Show the facts that are found for a question, best first."""
    if filter is not None:
        json_object(filter, "--filter")
    with _opened(server, key, store) as target:
        hits = target.search(namespace, query, top_k, min_score, retrieval, filter)
    show([asdict(hit) for hit in hits]) if as_json else output().print(kb_tables.hit_table(hits))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="NDJSON, one fact a line; - is stdin.")],
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Add or replace the facts of an NDJSON file, streamed in batches."""
    with _opened(server, key, store) as target, reading(file) as chunks:
        written = target.import_lines(chunks)
    messages().print(f"{written.upserted} facts imported{_deletions(written)}: version {written.version}")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write NDJSON; - is stdout.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this namespace.")] = None,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Write the facts as NDJSON, one a line, from one snapshot."""
    with _opened(server, key, store) as target, progress_bar() as bar, writing(file) as sink:
        task = bar.add_task("facts", total=target.count(namespace))
        count = 0
        for chunk in target.export_lines(namespace):
            sink.write(chunk)
            count += chunk.count(b"\n")
            bar.update(task, completed=count)
    messages().print(f"{count} facts exported")


app.command()(kb_documents.add_documents)
app.command()(kb_documents.documents)
app.command()(kb_documents.delete_document)


@app.command()
def history(
    id: Annotated[str | None, typer.Argument(help="A fact; default: the whole store.")] = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    before: Annotated[int | None, typer.Option(min=1, help="Only versions below this one.")] = None,
    as_json: Json = False,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Show what was changed, newest first."""
    with _opened(server, key, store) as target:
        rows = target.history(namespace, id, limit, before)
    show([asdict(row) for row in rows]) if as_json else output().print(kb_tables.history_table(rows))


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(min=0)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
    store: StoreDir = None,
) -> None:
    """Make the knowledge what it was at VERSION, as a new version; the history stays."""
    if not yes:
        typer.confirm(f"Make all knowledge what it was at version {version}?", abort=True)
    with _opened(server, key, store) as target:
        written = target.rollback(version)
    changes = f"{written.upserted} facts written, {written.deleted} deleted"
    messages().print(f"{changes}: version {written.version}")


app.command()(kb_backup.backup)
app.command()(kb_backup.restore)


@app.command("accept-log")
def accept(
    store: Annotated[Path, typer.Argument(help="A store directory that no server has open.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Accept a store whose head marker is lost or of another copy, with the knowledge its log holds.

    Whether acknowledged edits are missing from that log can then no longer be told.
    """
    if not yes:
        typer.confirm("Acknowledged edits may be missing from the log. Accept it as it is?", abort=True)
    from kb.verification import accept_log

    _say("accepted", store, accept_log)


@app.command("verify")
def check(store: Annotated[Path, typer.Argument(help="A store directory that no server has open.")]) -> None:
    """Read all that a store holds, every version in its log included, and say whether it is sound."""
    from kb.verification import verify

    _say("sound", store, verify)


@contextmanager
def _opened(server: str, key: str | None, store: Path | None) -> Iterator[KnowledgeTarget]:
    """The knowledge to work on. A CommandError from it, or from working on it, ends the command."""
    try:
        if store is not None:
            from server.cli.local import open_store

            with open_store(store) as target:
                yield target
        else:
            from server.cli.remote import connect

            with connect(server, key) as remote:
                yield remote
    except CommandError as error:
        fail(error)


def _new_id() -> str:
    from ulid import ULID

    return str(ULID())


def _seconds(text: str | None) -> float | None:
    """ISO 8601 as unix seconds."""
    if text is None:
        return None
    from kb.ndjson import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--expires-at") from error


def _say(verdict: str, store: Path, check: Check) -> None:
    from server.cli.local import check_log

    try:
        found = check_log(store, check)
    except CommandError as error:
        fail(error)
    messages().print(f"{verdict}, with {found.facts} facts at version {found.version}")


def _deletions(written: Written) -> str:
    return f" and {written.deleted} deleted" if written.deleted else ""
