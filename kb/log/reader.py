"""Reading a log: its batches, each checked against the hash chain, and where they tell of a fact."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, func, literal, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from kb.errors import StoreCorrupt, StoreUnavailable, VersionGone
from kb.facts import Key
from kb.log.base import Base, BaseRow, Beginning
from kb.log.batch import HASHED_AT_ONCE, Batch, Chaining, Entry
from kb.log.marker import Head
from kb.log.schema import base_changes, base_facts, batches, entries

YIELD_S = 0.0002
"""How long a thread that reads a whole batch sleeps between two slices of it, so that others get the interpreter."""
ENTRY_COLUMNS = ("op", "namespace", "id", "text", "metadata", "expires_at")
_ROWS = 1000
_KEYS = 250
"""Looked up in one query."""
DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)


class LogReader:
    """Of a database that holds a log, or a backup of one. Thread-safe."""

    shared = False
    """Whether others append to it, too."""
    engine: Engine

    def __init__(self, name: str) -> None:
        """`name` is what errors call it."""
        self._name = name

    def base(self) -> Base:
        """Where it begins now."""
        with self._reading(), self.engine.connect() as connection:
            return Base.read(connection, self._name)

    def beginning(self) -> Beginning:
        """All that holds there."""
        with self._reading(), self.engine.connect() as connection:
            return Beginning.read(connection, self._name, _ROWS)

    def base_rows(self, keys: Collection[Key]) -> dict[Key, BaseRow]:
        """What the base says of some facts; those that it does not have are left out."""
        found: dict[Key, BaseRow] = {}
        wanted, b = list(keys), base_facts.c
        with self._reading(), self.engine.connect() as connection:
            for start in range(0, len(wanted), _KEYS):
                some = tuple_(b.namespace, b.id).in_(wanted[start : start + _KEYS])
                rows = (BaseRow.read(row, self._name) for row in connection.execute(select(base_facts).where(some)))
                found |= {row.key: row for row in rows}
        return found

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
            # A base that has gone further meanwhile knows no more what was.
            found = {row.namespace: min(row.version, upto) for row in connection.execute(select(base_changes))}
            return found | {row[0]: row[1] for row in connection.execute(newest)}

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
        with self._reading(), self.engine.connect() as connection:
            return self._chain_at(connection, version)

    def scan(self, after: Head, upto: int | None = None) -> Iterator[Batch]:
        """The batches after `after`, up to and with version `upto`, each checked against the hash chain.

        Raises VersionGone if the log begins later, StoreCorrupt at the first batch that is missing, out of place or not
        what was written.
        """
        columns = (entries.c.version, *(entries.c[name] for name in ENTRY_COLUMNS))
        last = 2**62 if upto is None else upto
        with self._reading(), self.engine.connect() as connection:
            # Inside one transaction, so both cursors see the same log.
            self._require_kept(connection, after.version)
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
        reached = first - 1
        with self._reading(), self.engine.connect() as connection:
            self._require_kept(connection, reached)
            chain = self._chain_at(connection, reached)
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
        found: list[Entry] = []
        columns = [entries.c[name] for name in ENTRY_COLUMNS]
        with self._reading(), self.engine.connect() as connection:
            self._require_kept(connection, version - 1)
            previous = self._chain_at(connection, version - 1)
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

    def _require_kept(self, connection: Connection, version: int) -> None:
        """Raises VersionGone where the log begins after `version`."""
        oldest = Base.read(connection, self._name).head.version
        if version < oldest:
            raise VersionGone(version, oldest)

    def _chain_at(self, connection: Connection, version: int) -> bytes | None:
        base = Base.read(connection, self._name).head
        if version == base.version:
            return base.chain
        chain: bytes | None = connection.execute(
            select(batches.c.chain).where(batches.c.version == version)
        ).scalar_one_or_none()
        return chain

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        # UnicodeError, TypeError and ValueError: values that the damaged file calls text or numbers.
        except (*DATABASE_ERRORS, UnicodeError, TypeError, ValueError) as error:
            if isinstance(error, SQLAlchemyError) and self.shared:
                raise StoreUnavailable(f"{self._name}: {reason(error)}") from error
            raise StoreCorrupt(self._name, f"cannot be used: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What the database says; not the details that follow, which may quote a row."""
    original = getattr(error, "orig", None)
    return str(original or error).partition("\n")[0]
