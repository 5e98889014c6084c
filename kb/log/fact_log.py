"""The durable, append-only log of batches. SQLAlchemy Core; SQLite in WAL mode with synchronous=FULL, or PostgreSQL
(`kb/log/postgres.py`)."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, func, insert, literal, select, tuple_
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from kb.errors import StoreCorrupt, StoreUnavailable, WriteFailed
from kb.facts import Key
from kb.log import schema, sqlite
from kb.log.batch import GENESIS, HASHED_AT_ONCE, Batch, Chaining, Entry
from kb.log.location import Location
from kb.log.marker import Head
from kb.log.schema import batches, entries

CHECK_SECONDS = 5.0
"""How long a start may check the structure of the database: some millions of facts."""
YIELD_S = 0.0002
"""How long a thread that reads a whole batch sleeps between two slices of it, so that others get the interpreter."""
_ROWS = 1000
_KEYS = 250
"""Looked up in one query."""
_DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)

_logger = logging.getLogger(__name__)


class HeadMoved(Exception):
    """Somebody else has appended since: nothing was written. For the store, which takes that in and tries again."""


class FactLog:
    """Of one writer, in SQLite. Reads are thread-safe; `append` and `recover` belong to the store's one writer."""

    shared = False
    """Whether others append to it, too."""

    def __init__(self, location: Location, *, check_seconds: float = CHECK_SECONDS) -> None:
        """Connects, checks the database's own structure (for so long at most) and makes missing tables.

        Raises StoreCorrupt, or StoreUnavailable when there is no such database or driver.
        """
        self._name = str(location.database or location.url.render_as_string(hide_password=True))
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

    def entry_count(self, after: int = 0) -> int:
        """Entries in the batches after version `after`."""
        counted = select(func.count()).select_from(entries).where(entries.c.version > after)
        with self._reading(), self.engine.connect() as connection:
            return connection.execute(counted).scalar_one()

    def newest_version(self, before: int | None) -> int:
        """The newest version in the log, or the newest one below `before`; 0 when there is none."""
        newest = select(func.max(batches.c.version))
        if before is not None:
            newest = newest.where(batches.c.version < before)
        with self._reading(), self.engine.connect() as connection:
            return connection.execute(newest).scalar_one() or 0

    def versions_of(self, namespace: str, fact_id: str, limit: int, before: int | None) -> list[int]:
        """The versions below `before` that touched a fact, newest first."""
        e = entries.c
        found = select(e.version).where(e.namespace == namespace, e.id == fact_id)
        if before is not None:
            found = found.where(e.version < before)
        with self._reading(), self.engine.connect() as connection:
            return list(connection.execute(found.order_by(e.version.desc()).limit(limit)).scalars())

    def versions_touching(self, namespaces: Collection[str], limit: int, before: int | None) -> list[int]:
        """The versions below `before` that touched a fact of these namespaces, newest first."""
        e = entries.c
        found = select(e.version).where(e.namespace.in_(namespaces)).distinct()
        if before is not None:
            found = found.where(e.version < before)
        with self._reading(), self.engine.connect() as connection:
            return list(connection.execute(found.order_by(e.version.desc()).limit(limit)).scalars())

    def last_changes(self, upto: int) -> dict[str, int]:
        """For each namespace the newest version up to `upto` that touched it."""
        e = entries.c
        newest = select(e.namespace, func.max(e.version)).where(e.version <= upto).group_by(e.namespace)
        with self._reading(), self.engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(newest)}

    def last_touches(self, keys: Sequence[Key], upto: int) -> dict[Key, int]:
        """For each of some facts the newest version up to `upto` that touched it; those without one are left out."""
        e = entries.c
        found: dict[Key, int] = {}
        with self._reading(), self.engine.connect() as connection:
            for start in range(0, len(keys), _KEYS):
                some = tuple_(e.namespace, e.id).in_(keys[start : start + _KEYS])
                newest = select(e.namespace, e.id, func.max(e.version)).where(some, e.version <= upto)
                rows = connection.execute(newest.group_by(e.namespace, e.id))
                found |= {(namespace, fact_id): version for namespace, fact_id, version in rows}
        return found

    def keys_between(
        self, first: int, last: int, limit: int, start: Key | None, namespaces: Collection[str] | None = None
    ) -> list[Key]:
        """Facts (of these namespaces) that versions `first` to `last` touched, by namespace and id, those greater than
        `start`."""
        e = entries.c
        found = select(e.namespace, e.id).where(e.version.between(first, last)).distinct()
        if namespaces is not None:
            found = found.where(e.namespace.in_(namespaces))
        if start is not None:
            found = found.where(tuple_(e.namespace, e.id) > tuple_(*map(literal, start)))
        with self._reading(), self.engine.connect() as connection:
            rows = connection.execute(found.order_by(e.namespace, e.id).limit(limit))
            return [(namespace, fact_id) for namespace, fact_id in rows]

    def chain_at(self, version: int) -> bytes | None:
        """The recorded hash chain at `version`; None when the log does not hold it."""
        if version == 0:
            return GENESIS
        with self._reading(), self.engine.connect() as connection:
            chain: bytes | None = connection.execute(
                select(batches.c.chain).where(batches.c.version == version)
            ).scalar_one_or_none()
            return chain

    def scan(self, after: Head, upto: int | None = None) -> Iterator[Batch]:
        """The batches after `after`, up to and with version `upto`, each checked against the hash chain.

        Raises StoreCorrupt at the first batch that is missing, out of place or not what was written.
        """
        columns = (entries.c.version, *(entries.c[name] for name in _ENTRY_COLUMNS))
        last = 2**62 if upto is None else upto
        with self._reading(), self.engine.connect() as connection:
            # Inside one transaction, so both cursors see the same log.
            streaming = connection.execution_options(yield_per=_ROWS)
            of_batches = select(batches).where(batches.c.version.between(after.version + 1, last))
            of_entries = select(*columns).where(entries.c.version.between(after.version + 1, last))
            with (
                closing(streaming.execute(of_batches.order_by(batches.c.version))) as heads,
                closing(streaming.execute(of_entries.order_by(entries.c.version, entries.c.seq))) as rows,
            ):
                yield from self._verified(after, heads, rows)

    def between(self, first: int, last: int) -> Iterator[Batch]:
        """The batches from version `first` to `last`, checked from the chain recorded before. Raises like `scan`."""
        chain, reached = self.chain_at(first - 1), first - 1
        if chain is None:
            raise StoreCorrupt(self._name, f"the log is damaged at version {reached}")
        for batch in self.scan(Head(reached, chain), last):
            yield batch
            reached = batch.version
        if reached < last:
            raise StoreCorrupt(self._name, f"the log is damaged at version {reached + 1}")

    def excerpt(self, version: int, keys: Collection[Key]) -> Batch:
        """A version's batch with its entries for `keys` only, facts that it touched. All are read and checked against
        the chain, slice by slice, and none of the rest is kept: it may be a hundred thousand facts. Raises like `scan`.
        """
        previous, found = self.chain_at(version - 1), list[Entry]()
        columns = [entries.c[name] for name in _ENTRY_COLUMNS]
        with self._reading(), self.engine.connect() as connection:
            head = connection.execute(select(batches).where(batches.c.version == version)).one_or_none()
            if previous is None or head is None:
                raise StoreCorrupt(self._name, f"the log is damaged at version {version}")
            chain = Chaining(previous, version, head.created_at, head.kind)
            rows = connection.execution_options(yield_per=HASHED_AT_ONCE).execute(
                select(*columns).where(entries.c.version == version).order_by(entries.c.seq)
            )
            with closing(rows):
                for some in rows.partitions():
                    told = [Entry(*row) for row in some]
                    chain.add([entry.values for entry in told])
                    found += [entry for entry in told if entry.key in keys]
                    time.sleep(YIELD_S)
            if chain.digest() != head.chain or len(found) != len(keys):
                raise StoreCorrupt(self._name, f"the log is damaged at version {version}")
        return Batch(version, head.created_at, head.kind, tuple(found), head.chain)

    def _verified(self, after: Head, heads: Any, rows: Any) -> Iterator[Batch]:
        groups = groupby(rows, key=lambda row: row[0])
        group = next(groups, None)
        previous = after
        for head in heads:
            found: list[Entry] = []
            if group is not None and group[0] == head.version:
                found = [Entry(*row[1:]) for row in group[1]]
                group = next(groups, None)
            batch = Batch.following(previous.chain, previous.version + 1, head.created_at, head.kind, found)
            if head.version != batch.version or head.chain != batch.chain:
                raise StoreCorrupt(self._name, f"the log is damaged at version {batch.version}")
            yield batch
            previous = Head(batch.version, batch.chain)
        if group is not None:
            raise StoreCorrupt(self._name, f"the log is damaged at version {group[0]}: changes without a batch")

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else can append during the block."""
        return nullcontext()

    def append(self, batch: Batch, cache_rows: Sequence[Mapping[str, Any]], after: Head) -> None:
        """Makes the batch durable, which follows `after`, together with rows of the embedding cache.

        Raises WriteFailed, and HeadMoved where the log is shared.
        """
        with self._writing(), self._writer.begin():
            self._insert(self._writer, batch, cache_rows)

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
            {"version": batch.version, "seq": seq, **dict(zip(_ENTRY_COLUMNS, entry.values, strict=True))}
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
    def _reading(self) -> Iterator[None]:
        try:
            yield
        # UnicodeError, TypeError and ValueError: values that the damaged file calls text or numbers.
        except (*_DATABASE_ERRORS, UnicodeError, TypeError, ValueError) as error:
            if isinstance(error, SQLAlchemyError) and self.shared:
                raise StoreUnavailable(f"{self._name}: {reason(error)}") from error
            raise StoreCorrupt(self._name, f"cannot be used: {reason(error)}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except _DATABASE_ERRORS as error:
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
        sqlite.check(self._writer, self._name, check_seconds)
        with self._writer.begin():
            schema.metadata.create_all(self._writer)
        # Damage to a table's definition may show only when something is written.
        if schema.shape(self._writer) != schema.expected_shape():
            raise StoreCorrupt(self._name, f"its tables are not those of format {schema.FORMAT}")


_ENTRY_COLUMNS = ("op", "namespace", "id", "text", "metadata", "expires_at")


def reason(error: Exception) -> str:
    """What the database says; not the details that follow, which may quote a row."""
    original = getattr(error, "orig", None)
    return str(original or error).partition("\n")[0]
