"""`kalmagrove kb add-documents`, `documents` and `delete-document`: on a running server, which has the tokenizer that
says how long a fact is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli import kb_tables
from server.cli.console import FAILED, UNREACHABLE, CommandError, fail, messages, output, progress_bar
from server.cli.kb_options import Json, Key, Namespace, json_object, show
from server.cli.options import DEFAULT_SERVER, AdminServer

if TYPE_CHECKING:
    from server.cli.document_files import DocumentFile
    from server.cli.remote import ServerTarget
    from server.cli.targets import DocumentWritten


def add_documents(
    directory: Annotated[Path, typer.Argument(help="Its .txt, .md, .html and .pdf files, at any depth; or one file.")],
    namespace: Namespace = None,
    metadata: Annotated[str, typer.Option(help="A JSON object, for every fact.")] = "{}",
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Split files into facts, each file a document in place of the one it was before.

    A file that cannot be read, or is refused, is named, and the others go on.
    """
    from server.cli.document_files import files_in

    about = json_object(metadata, "--metadata")
    failed = facts = encoded = 0
    with _opened(server, key) as target, progress_bar() as bar:
        files = files_in(directory)
        for file in bar.track(files, description="documents"):
            try:
                written = _added(target, file, namespace, about)
            except CommandError as error:
                if error.code == UNREACHABLE:
                    raise
                failed += 1
                messages().print(str(error), markup=False, soft_wrap=True, highlight=False)
                continue
            facts, encoded = facts + written.facts, encoded + written.encoded
    done = len(files) - failed
    messages().print(f"{done} documents of {facts} facts, {encoded} of them new", highlight=False)
    if failed:
        fail(CommandError(f"{failed} of {len(files)} files were not added", FAILED))


def documents(
    namespace: Namespace = None,
    as_json: Json = False,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """List the documents of a namespace."""
    with _opened(server, key) as target:
        rows = list(target.documents(namespace))
    show([asdict(row) for row in rows]) if as_json else output().print(kb_tables.document_table(rows))


def delete_document(
    id: Annotated[str, typer.Argument()],
    namespace: Namespace = None,
    if_version: Annotated[
        int | None, typer.Option("--if-version", min=1, help="Only if this is the document's version.")
    ] = None,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Delete all facts of one document."""
    with _opened(server, key) as target:
        written = target.delete_document(namespace, id, if_version)
    messages().print(f"{written.deleted} facts of {id} are gone from version {written.version}", highlight=False)


def _added(target: ServerTarget, file: DocumentFile, namespace: str | None, about: dict[str, Any]) -> DocumentWritten:
    text = file.text()
    try:
        return target.put_document(file.id, namespace, text, file.format, about)
    except CommandError as error:
        raise CommandError(f"{file.path}: {error}", error.code) from error


@contextmanager
def _opened(server: str, key: str | None) -> Iterator[ServerTarget]:
    from server.cli.remote import connect

    try:
        with connect(server, key) as target:
            yield target
    except CommandError as error:
        fail(error)
