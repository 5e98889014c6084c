"""Bringing one back: into a store directory, or into PostgreSQL.

In a directory the head marker comes first. From then on until the log is in its place a start is refused, so what a
crash leaves is the old store, the new one, or nothing that opens.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from kb.backup.file import Copy, copy_out, remove, settle
from kb.backup.making import NotOverwritten, copy_rows
from kb.errors import StoreUnavailable
from kb.loading import Progress
from kb.log import schema
from kb.log.location import Location, StoreLock
from kb.log.marker import Head, HeadMarker, acknowledged
from kb.verification import Verified


def restore(file: Path, target: Path | str, *, overwrite: bool = False, progress: Progress | None = None) -> Verified:
    """Makes a store what a backup holds, once all of that was checked. `progress(done, total)` counts log entries.

    Raises NotOverwritten when it holds something, StoreLocked when it is open, StoreUnavailable, StoreCorrupt (naming
    the damaged file).
    """
    location = Location.of(target)
    try:
        if location.database is None:
            return _into_postgres(file, location, overwrite, progress)
        return _into_directory(file, location, location.database, overwrite, progress)
    except OSError as error:
        raise StoreUnavailable(f"{target}: {error.strerror or error}") from error


def _into_directory(
    file: Path, location: Location, database: Path, overwrite: bool, progress: Progress | None
) -> Verified:
    lock = StoreLock(location.beside(".lock"))
    partial = location.beside(".restore")
    try:
        if not overwrite and _holds_something(location, database):
            raise NotOverwritten(f"{database.parent} holds a store already")
        remove(partial)
        copy_out(file, partial)
        head, found = Copy(partial, str(file)).unseal(progress)
        _fold_in_write_ahead_log(database)
        _mark(location, head)
        for suffix in ("-wal", "-shm", "-journal", ".state"):
            location.beside(suffix).unlink(missing_ok=True)
        settle(partial, database)
        return found
    finally:
        with suppress(OSError):
            remove(partial)
        lock.release()


def _holds_something(location: Location, database: Path) -> bool:
    head = acknowledged(location.beside(".head"))
    if head is not None and head.version:
        return True
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as driver:
            return bool(driver.execute("SELECT EXISTS (SELECT * FROM batches)").fetchone()[0])
    except sqlite3.Error:
        return True  # whatever it is


def _fold_in_write_ahead_log(database: Path) -> None:
    """So that the old database is whole without its log, as long as it is there."""
    if database.exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as driver:
            driver.execute("PRAGMA synchronous=FULL")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _mark(location: Location, head: Head) -> None:
    marker = HeadMarker(location.beside(".head"))
    try:
        marker.create(head)
    finally:
        marker.close()


def _into_postgres(file: Path, location: Location, overwrite: bool, progress: Progress | None) -> Verified:
    from kb.log.postgres import PostgresLog

    with tempfile.TemporaryDirectory(prefix="kalmagrove-restore-") as directory:
        copied = Path(directory) / "facts.db"
        copy_out(file, copied)
        copy = Copy(copied, str(file))
        head, found = copy.unseal(progress)
        with closing(PostgresLog(location)) as log, log.replacing() as (there, sink):
            if there.version and not overwrite:
                raise NotOverwritten(f"the database holds a log already, up to version {there.version}")
            with copy.changing() as source:
                for table in schema.metadata.sorted_tables:
                    copy_rows(source, sink, table)
            log.set_head(sink, head)
        return found
