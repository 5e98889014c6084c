"""The log in PostgreSQL, to which any number of servers append.

An append is one transaction. It first moves the head, one row, on from the version that the writer has published:
whoever else appends waits for that row, and then finds it moved. So the log has one order, and each batch is built on
all before it.
"""

from __future__ import annotations

import logging
import secrets
import select as readiness
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from kb.errors import StoreCorrupt, StoreUnavailable, WriteFailed, WriteUnknown
from kb.log import compaction, migrations, schema
from kb.log.base import Base
from kb.log.batch import Batch
from kb.log.compaction import Compaction
from kb.log.fact_log import FactLog, HeadMoved
from kb.log.location import Location
from kb.log.marker import Head
from kb.log.reader import reason
from kb.log.schema import batch_ids, batches, heads

CHANNEL = "kalmagrove_log"
"""Notified of every append."""
RECHECK_SECONDS = 10.0
"""How long a writer whose connection was lost in the midst of a commit tries to learn what became of it."""
RECHECK_PAUSE_S = 0.1
_MAKING_TABLES = 0x6B616C6D61
"""Key of the advisory lock under which tables are made: several servers may start together."""
_CONNECTION = {
    "application_name": "kalmagrove",
    "connect_timeout": "5",
    # A database that is gone without a word is noticed, by whoever waits for it and by whoever does not.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "target_session_attrs": "read-write",
}
"""libpq's parameters, where the URL does not say otherwise; the last one matters where it names several hosts."""
_WRITER = (
    "SET lock_timeout = '10s'",
    # A writer that is gone without a word does not keep the others from the head.
    "SET idle_in_transaction_session_timeout = '20s'",
)

_logger = logging.getLogger(__name__)


class PostgresLog(FactLog):
    """Of several writers. Reads are thread-safe; `alone` and `append` belong to one thread at a time."""

    shared = True
    _writes: Engine
    _held: Connection | None = None

    def head(self) -> Head:
        """Where the log ends now. Raises StoreUnavailable."""
        with self._reading(), self.engine.connect() as connection:
            version, chain = connection.execute(select(heads.c.version, heads.c.chain)).one()
            return Head(version, chain)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else can append during the block. Raises WriteFailed when others keep the head for too long."""
        with self._writing(), self._writes.connect() as connection:
            connection.execute(select(heads.c.version).with_for_update())
            self._held = connection
            try:
                yield
            finally:
                self._held = None

    def append(self, batch: Batch, cache_rows: Sequence[Mapping[str, Any]], after: Head) -> None:
        """Returns once the batch is committed.

        Raises HeadMoved, WriteFailed (it is not, and will not be), WriteUnknown.
        """
        batch_id = secrets.token_bytes(16)
        with self._writing(), self._connected() as connection:
            self._write(connection, batch, batch_id, cache_rows, after)
            try:
                connection.commit()
            except SQLAlchemyError as error:
                connection.invalidate()
                _logger.warning("a commit was cut off, and is looked for: %s", reason(error))
            else:
                return
        if not self._committed(batch_id):
            raise WriteFailed(f"{self._name}: the commit failed")

    def compact(self, step: Compaction, unused: Sequence[Mapping[str, Any]]) -> bool:
        """Behind the head's lock, as an append."""
        with self._writing(), self._writes.begin() as connection:
            connection.execute(select(heads.c.version).with_for_update())
            if not compaction.apply(connection, self._name, step, unused):
                return False
            connection.execute(delete(batch_ids).where(batch_ids.c.version <= step.head.version))
            return True

    def store_cache(self, cache_rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the embedding cache alone. Raises WriteFailed."""
        with self._writing(), self._writes.begin() as connection:
            self._store_cache(connection, cache_rows)

    def recover(self) -> None:
        """Nothing: what a failed transaction wrote was never there."""

    def close(self) -> None:
        """Closes every connection."""
        self._dispose()

    def _dispose(self) -> None:
        self._writes.dispose()
        self.engine.dispose()

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Hears of appends from now on. Raises StoreUnavailable."""
        with self._reading():
            connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            connection.detach()  # closed at the end: nobody else is to hear of them
            with self._reading():
                connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            yield Listener(self._name, connection)

    @contextmanager
    def replacing(self) -> Iterator[tuple[Head, Connection]]:
        """A transaction that finds the log empty, and where it ended; nobody else can write during the block. Raises
        WriteFailed."""
        with self._writing(), self._writes.begin() as connection:
            there = connection.execute(select(heads.c.version, heads.c.chain).with_for_update()).one()
            for table in (*schema.metadata.sorted_tables, batch_ids):
                connection.execute(delete(table))
            yield Head(*there), connection

    def set_head(self, connection: Connection, head: Head) -> None:
        """At the end of such a transaction."""
        connection.execute(update(heads).values(version=head.version, chain=head.chain))
        connection.execute(select(func.pg_notify(CHANNEL, str(head.version))))

    def _connected(self) -> AbstractContextManager[Connection]:
        return self._writes.connect() if self._held is None else nullcontext(self._held)

    def _write(
        self, connection: Connection, batch: Batch, batch_id: bytes, rows: Sequence[Mapping[str, Any]], after: Head
    ) -> None:
        there = (heads.c.version == after.version) & (heads.c.chain == after.chain)
        moved = connection.execute(update(heads).where(there).values(version=batch.version, chain=batch.chain))
        if moved.rowcount != 1:
            connection.rollback()
            raise HeadMoved
        self._insert(connection, batch, rows)
        connection.execute(insert(batch_ids).values(batch_id=batch_id, version=batch.version))
        connection.execute(select(func.pg_notify(CHANNEL, str(batch.version))))

    def _committed(self, batch_id: bytes) -> bool:
        """Whether the log holds the batch, once that cannot change any more. Raises WriteUnknown."""
        deadline = time.monotonic() + RECHECK_SECONDS
        while True:
            try:
                with self._writes.connect() as connection:
                    # The lost transaction has this row until it has ended, one way or the other.
                    connection.execute(select(heads.c.version).with_for_update())
                    found = select(batch_ids.c.version).where(batch_ids.c.batch_id == batch_id)
                    return connection.execute(found).first() is not None
            except SQLAlchemyError as error:
                if time.monotonic() > deadline:
                    message = f"{self._name}: lost while a batch was committed, which may be there: {reason(error)}"
                    raise WriteUnknown(message) from error
                time.sleep(RECHECK_PAUSE_S)

    def _connecting(self, location: Location) -> Engine:
        engine = reading_engine(location)
        self._writes = create_engine(engine.url, hide_parameters=True, pool_pre_ping=True, pool_size=1)
        event.listen(self._writes, "connect", _configure_writer)
        return engine

    def _prepare_database(self, check_seconds: float) -> None:
        with self._writes.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_MAKING_TABLES)))
            schema.shared.create_all(connection)
            ends = select(heads.c.format, heads.c.version, heads.c.chain).with_for_update()
            head = connection.execute(ends).one_or_none()
            if head is not None:
                schema.require_format(head.format, self._name)
                if head.format < schema.FORMAT:
                    migrations.upgrade(connection, head.format, schema.FORMAT)
                    connection.execute(update(heads).values(format=schema.FORMAT))
            schema.metadata.create_all(connection)
            base = Base.read(connection, self._name).head
            newest = select(batches.c.version, batches.c.chain).order_by(batches.c.version.desc()).limit(1)
            version, chain = connection.execute(newest).one_or_none() or (base.version, base.chain)
            if head is None:
                values = {"one": True, "format": schema.FORMAT, "version": version, "chain": chain}
                connection.execute(insert(heads).values(values))
            elif (head.version, head.chain) != (version, chain):
                raise StoreCorrupt(self._name, f"its head is at version {head.version}, its last batch at {version}")


def reading_engine(location: Location) -> Engine:
    """Each transaction is of one state of the log, however many queries a reader needs. Raises ImportError."""
    if find_spec("psycopg") is None:
        raise ImportError("there is no driver: pip install 'kalmagrove[postgres]'")
    defaults = {name: value for name, value in _CONNECTION.items() if name not in location.url.query}
    url = location.url.update_query_dict(defaults)
    return create_engine(url, hide_parameters=True, pool_pre_ping=True, isolation_level="REPEATABLE READ")


class Listener:
    """A connection that is told of appends."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._driver: Any = connection.connection.dbapi_connection
        self._errors = connection.dialect.loaded_dbapi.Error

    def wait(self, waker: int, seconds: float) -> None:
        """Returns when somebody has appended, when there is something to read from the file `waker`, or after this
        time. Raises StoreUnavailable when the connection is lost."""
        try:
            poll = readiness.poll()  # select takes no file beyond the 1024th, and each client has one
            for file in (self._driver.fileno(), waker):
                poll.register(file, readiness.POLLIN)
            poll.poll(1000 * seconds)
            for _ in self._driver.notifies(timeout=0):
                pass
        except (self._errors, OSError) as error:
            raise StoreUnavailable(f"{self._name}: {reason(error)}") from error


def _configure_writer(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        # Stricter settings of the database's own stay.
        (waited_for,) = cursor.execute("SHOW synchronous_commit").fetchone()
        if waited_for in ("off", "local"):
            cursor.execute("SET synchronous_commit = on")
        for statement in _WRITER:
            cursor.execute(statement)
    connection.commit()
