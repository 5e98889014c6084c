"""Making one while servers run and edits go on: the copy is of one version, and nobody waits for it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import SQLAlchemyError

from kb.backup.file import Copy, close_up, remove, settle
from kb.errors import KnowledgeError, StoreCorrupt, StoreUnavailable
from kb.loading import Progress
from kb.log import schema
from kb.log.location import Location
from kb.log.marker import Head, acknowledged
from kb.log.reader import reason
from kb.verification import Verified

ROWS = 1000
"""Read and written at once."""


class NotOverwritten(KnowledgeError):
    """There is something already, and nobody said that it may go."""


def back_up(source: Path | str, target: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Verified:
    """Copies a log (a store directory's, or a database URL's) into the file `target`, which appears when it is whole,
    checked and durable. `progress(done, total)` counts log entries that were checked.

    Raises NotOverwritten, StoreUnavailable, StoreCorrupt (naming what is damaged).
    """
    location = Location.of(source)
    if target.exists() and not overwrite:
        raise NotOverwritten(f"{target} exists")
    if not target.parent.is_dir():
        raise StoreUnavailable(f"{target.parent} is not a directory")
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        remove(partial)
        found = _copied(location, partial).seal(progress)
        close_up(partial)
        settle(partial, target)
    except OSError as error:
        raise StoreUnavailable(f"{target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            remove(partial)
    return found


def _copied(location: Location, partial: Path) -> Copy:
    if location.database is None:
        return _exported(location, partial)
    head = _vacuumed(location, location.database, partial)
    copy = Copy(partial, str(location.database))
    if head is not None and head.version and copy.found_chain(head.version) not in (head.chain, None):
        raise StoreCorrupt(location.database, f"its content at version {head.version} is not what was acknowledged")
    return copy


def _vacuumed(location: Location, database: Path, partial: Path) -> Head | None:
    if not database.exists():
        raise StoreUnavailable(f"{database.parent} holds no store")
    head = acknowledged(location.beside(".head"))
    if head is None:
        raise StoreCorrupt(location.beside(".head"), "is missing or damaged: see kalmagrove kb accept-log")
    try:
        # Reads the write-ahead log where it lies, and leaves it there when it closes.
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as driver:
            schema.require_format(driver.execute("PRAGMA user_version").fetchone()[0], str(database))
            driver.execute("VACUUM INTO ?", (str(partial),))
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{database}: {error}") from error
    with closing(sqlite3.connect(partial)) as driver:
        newest = driver.execute("SELECT max(version) FROM batches").fetchone()[0] or 0
    if newest < head.version:
        raise StoreCorrupt(
            database, f"lost its end: version {head.version} was acknowledged, the log stops at {newest}"
        )
    return head


def _exported(location: Location, partial: Path) -> Copy:
    """In one transaction of the database's, which sees one version however many come after it."""
    from kb.log.postgres import reading_engine

    name = location.url.render_as_string(hide_password=True)
    copy = Copy(partial, name)
    engine = reading_engine(location)
    try:
        with engine.connect() as source, copy.changing() as sink:
            found = source.execute(select(schema.heads.c.format)).scalar_one()
            if found != schema.FORMAT:
                schema.require_format(found, name)
                raise StoreUnavailable(f"{name}: has format {found}; start a server of this program on it first")
            schema.metadata.create_all(sink)
            sink.exec_driver_sql(f"PRAGMA user_version={schema.FORMAT}")
            for table in schema.metadata.sorted_tables:
                copy_rows(source, sink, table)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"{name}: {reason(error)}") from error
    finally:
        engine.dispose()
    return copy


def copy_rows(source: Connection, sink: Connection, table: Table) -> None:
    """All of a table, some at a time."""
    # A cursor on the server, if there is one: a log may be larger than memory.
    rows = source.execution_options(yield_per=ROWS).execute(select(table)).mappings()
    for some in rows.partitions():
        sink.execute(insert(table), [dict(row) for row in some])
