"""The durable, append-only log of batches. SQLAlchemy Core; SQLite in WAL mode with synchronous=FULL, or PostgreSQL
(`kb/log/postgres.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, insert
from sqlalchemy.exc import NoSuchModuleError

from kb.errors import StoreCorrupt, StoreUnavailable, WriteFailed
from kb.log import compaction, migrations, schema, sqlite
from kb.log.batch import Batch
from kb.log.compaction import Compaction
from kb.log.location import Location
from kb.log.marker import Head
from kb.log.reader import DATABASE_ERRORS, ENTRY_COLUMNS, LogReader, reason
from kb.log.schema import batches, entries

CHECK_SECONDS = 5.0
"""How long a start may check the structure of the database: some millions of facts."""


class HeadMoved(Exception):
    """Somebody else has appended since: nothing was written. For the store, which takes that in and tries again."""


class FactLog(LogReader):
    """Of one writer, in SQLite. Reads are thread-safe; what writes belongs to the store's one writer."""

    def __init__(self, location: Location, *, check_seconds: float = CHECK_SECONDS) -> None:
        """Connects, checks the database's own structure (for so long at most) and makes missing tables.

        Raises StoreCorrupt, or StoreUnavailable when there is no such database or driver.
        """
        super().__init__(str(location.database or location.url.render_as_string(hide_password=True)))
        try:
            self.engine = self._connecting(location)
        except (ImportError, NoSuchModuleError) as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error
        try:
            with self._reading():
                self._prepare_database(check_seconds)
        except BaseException:
            self._dispose()
            raise

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else can append during the block."""
        return nullcontext()

    def append(self, batch: Batch, cache_rows: Sequence[Mapping[str, Any]], after: Head) -> None:
        """Makes the batch durable, which follows `after`, together with rows of the embedding cache.

        Raises WriteFailed, and HeadMoved where the log is shared.
        """
        with self._writing(), self._writer.begin():
            self._insert(self._writer, batch, cache_rows)

    def compact(self, step: Compaction, unused: Sequence[Mapping[str, Any]]) -> bool:
        """Lets history go, and rows of the embedding cache by their keys; False if somebody else has meanwhile.

        Raises WriteFailed.
        """
        with self._writing(), self._writer.begin():
            return compaction.apply(self._writer, self._name, step, unused)

    def store_cache(self, cache_rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the embedding cache alone. Raises WriteFailed."""
        with self._writing(), self._writer.begin():
            self._store_cache(self._writer, cache_rows)

    def _insert(self, connection: Connection, batch: Batch, cache_rows: Sequence[Mapping[str, Any]]) -> None:
        head = {
            "version": batch.version,
            "created_at": batch.created_at,
            "kind": batch.kind,
            "chain": batch.chain,
        }
        rows = [
            {"version": batch.version, "seq": seq, **dict(zip(ENTRY_COLUMNS, entry.values, strict=True))}
            for seq, entry in enumerate(batch.entries)
        ]
        connection.execute(insert(batches), head)
        if rows:
            connection.execute(insert(entries), rows)
        self._store_cache(connection, cache_rows)

    def _store_cache(self, connection: Connection, cache_rows: Sequence[Mapping[str, Any]]) -> None:
        if not cache_rows:
            return
        if self.engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as upsert
        else:
            from sqlalchemy.dialects.sqlite import insert as upsert  # type: ignore[assignment]
        # In one order, whoever writes: two writers of the same rows never wait for each other.
        rows = sorted(cache_rows, key=lambda row: row["text_hash"])
        statement = upsert(schema.embeddings)
        changed = {"vector": statement.excluded.vector, "checksum": statement.excluded.checksum}
        keys = ["encoder", "text_hash"]
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)

    def recover(self) -> None:
        """After a failed write: drops what is left of it, for good. Raises WriteFailed when that fails too.

        What SQLite wrote of a failed commit still lies in the write-ahead log's file, where a restart would
        find it whole; and a failed fsync may have left older pages there unwritten while calling them clean.
        So everything committed is moved to the database file and synchronised anew, and the write-ahead log
        is cut to nothing.
        """
        with self._writing():
            self._writer.rollback()
            sqlite.cut_write_ahead_log(self._writer, self._name)

    def close(self) -> None:
        """Closes every connection."""
        self._writer.close()
        self._dispose()

    def _dispose(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except DATABASE_ERRORS as error:
            raise WriteFailed(f"{self._name}: {reason(error)}") from error

    def _connecting(self, location: Location) -> Engine:
        """Makes connections when they are asked for. Raises ImportError when there is no driver."""
        engine = create_engine(location.url, hide_parameters=True)
        sqlite.configure(engine)
        return engine

    def _prepare_database(self, check_seconds: float) -> None:
        # Held open for good: while a connection lives, SQLite keeps its view of the write-ahead log,
        # in which a commit that failed half-way does not exist.
        self._writer = self.engine.connect()
        found = sqlite.check(self._writer, self._name, check_seconds)
        with self._writer.begin():
            if 0 < found < schema.FORMAT:
                migrations.upgrade(self._writer, found, schema.FORMAT)
            schema.metadata.create_all(self._writer)
            self._writer.exec_driver_sql(f"PRAGMA user_version={schema.FORMAT}")
        # Damage to a table's definition may show only when something is written.
        if schema.shape(self._writer) != schema.expected_shape():
            raise StoreCorrupt(self._name, f"its tables are not those of format {schema.FORMAT}")
