"""The file: a SQLite database with the log's own tables and a seal, and behind it the digest of all that.

Whatever was not written to its end has no such ending, and is no backup.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.pool import NullPool

from kb.durable import sync
from kb.errors import StoreCorrupt
from kb.loading import Progress
from kb.log import migrations, schema, sqlite
from kb.log.damage import damage
from kb.log.marker import Head
from kb.log.reader import LogReader
from kb.verification import Verified, read_all

APPLICATION_ID = 0x4B474255
"""In the header of a sealed file."""
_ENDING = b"kalmagrove backup, sha256:"
_PIECE = 1 << 20

_metadata = MetaData()
_seals = Table(
    "backup",
    _metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("chain", LargeBinary, nullable=False),
    Column("facts", Integer, nullable=False),
    Column("made_at", Double, nullable=False),
)


class Copy(LogReader):
    """A log in a file that nobody else uses."""

    def __init__(self, path: Path, name: str) -> None:
        """One that is missing is made; `name` is what errors call it."""
        super().__init__(name)
        url = URL.create("sqlite+pysqlite", database=str(path))
        self.engine = create_engine(url, hide_parameters=True, poolclass=NullPool)
        sqlite.configure(self.engine)
        # It is synchronised once, when it is whole.
        event.listen(self.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction. Raises SQLAlchemyError."""
        with self.engine.begin() as connection:
            yield connection

    def found_chain(self, version: int) -> bytes | None:
        """The hash chain there, in a log of any format; None: it begins later."""
        with self._reading(), self.engine.connect() as connection:
            found = select(schema.batches.c.chain).where(schema.batches.c.version == version)
            chain: bytes | None = connection.execute(found).scalar_one_or_none()
            return chain

    def seal(self, progress: Progress | None) -> Verified:
        """Checks everything that the copied log holds, and says of it that it is whole. Raises StoreCorrupt."""
        self._modernize()
        head, found = self._checked(progress)
        with self._reading(), self.changing() as connection:
            _metadata.create_all(connection)
            row = {"version": head.version, "chain": head.chain, "facts": found.facts, "made_at": time.time()}
            connection.execute(insert(_seals), row)
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        return found

    def unseal(self, progress: Progress | None) -> tuple[Head, Verified]:
        """Checks the seal and everything that it is of; leaves the log alone. Raises StoreCorrupt."""
        with self._reading(), self.changing() as connection:
            (application,) = connection.exec_driver_sql("PRAGMA application_id").one()
            if application != APPLICATION_ID:
                raise StoreCorrupt(self._name, "is no backup, or was not written to its end")
            sealed = connection.execute(select(_seals)).one()
            _metadata.drop_all(connection)
            connection.exec_driver_sql("PRAGMA application_id=0")
        self._modernize()
        head, found = self._checked(progress)
        if (head.version, head.chain, found.facts) != (sealed.version, sealed.chain, sealed.facts):
            raise StoreCorrupt(self._name, f"does not hold what was backed up: version {sealed.version}")
        return head, found

    def _modernize(self) -> None:
        with self._reading(), self.changing() as connection:
            (version,) = connection.exec_driver_sql("PRAGMA user_version").one()
            schema.require_format(version, self._name)
            if version < schema.FORMAT:
                migrations.upgrade(connection, version, schema.FORMAT)
                connection.exec_driver_sql(f"PRAGMA user_version={schema.FORMAT}")

    def _checked(self, progress: Progress | None) -> tuple[Head, Verified]:
        with self._reading(), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            if found := damage(driver, float("inf")):
                raise StoreCorrupt(self._name, f"SQLite finds it damaged: {found}")
        with self._reading(), self.engine.connect() as connection:
            if schema.shape(connection) != schema.expected_shape():
                raise StoreCorrupt(self._name, f"its tables are not those of format {schema.FORMAT}")
        head, facts = read_all(self, progress)
        return head, Verified(head.version, len(facts))


def close_up(path: Path) -> None:
    """Ends a sealed file with the digest of all of it. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    with path.open("ab") as file:
        file.write(_ENDING + digest)


def copy_out(path: Path, target: Path) -> None:
    """The database in a backup, if every byte is what was written. Raises StoreCorrupt, OSError."""
    try:
        left = path.stat().st_size - len(_ENDING) - 32
        source = path.open("rb")
    except OSError as error:
        raise StoreCorrupt(path, f"cannot be read: {error.strerror or error}") from error
    with source, target.open("wb") as sink:
        digest = hashlib.sha256()
        while left > 0 and (some := source.read(min(left, _PIECE))):
            digest.update(some)
            sink.write(some)
            left -= len(some)
        if source.read() != _ENDING + digest.digest():
            raise StoreCorrupt(path, "is no backup, was not written to its end, or is damaged")


def settle(partial: Path, place: Path) -> None:
    """Makes the file durable, then puts it into its place. Raises OSError."""
    sync(partial)
    os.replace(partial, place)
    sync(place.parent)


def remove(path: Path) -> None:
    """A database and what SQLite may have left beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
