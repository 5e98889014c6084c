"""Letting old history go, in steps: each moves the log's base on over some batches, in one transaction.

What is kept says the same as before, to the versions and times of the facts: only versions older than the base cannot
be read any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from kb.facts import Key
from kb.log.base import Base, BaseRow, added_up, change_digest
from kb.log.batch import Batch
from kb.log.marker import Head
from kb.log.reader import LogReader
from kb.log.schema import base_changes, base_facts, bases, batches, embeddings, entries

ENTRIES_PER_STEP = 1000
"""About; a batch goes as a whole. Writers wait for a step."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """A step, planned beside edits."""

    before: Base
    head: Head
    """Where the log begins afterwards."""
    created_at: float
    facts: Mapping[Key, BaseRow | None]
    """What it then says of the facts that were touched; None: nothing."""
    changes: Mapping[str, int]
    """The newest version of each namespace that was touched."""
    replaced: Mapping[Key, BaseRow]
    """What it said of them."""
    texts: frozenset[str]
    """That some fact had, and has no longer in the base."""

    @property
    def versions(self) -> int:
        """How many are let go."""
        return self.head.version - self.before.head.version


def plan(log: LogReader, cutoff: float, upto: int) -> Compaction | None:
    """A step over batches made before `cutoff` (unix seconds), up to version `upto`; None if there are none.

    Raises StoreCorrupt, StoreUnavailable; VersionGone if somebody else has just made one.
    """
    base, gone, count = log.base(), list[Batch](), 0
    with closing(log.scan(base.head, upto)) as kept:  # type: ignore[type-var]
        for batch in kept:
            if batch.created_at >= cutoff:
                break
            gone.append(batch)
            count += len(batch.entries)
            if count >= ENTRIES_PER_STEP:
                break
    return _folded(base, gone, log) if gone else None


def _folded(base: Base, gone: Sequence[Batch], log: LogReader) -> Compaction:
    replaced = log.base_rows({entry.key for batch in gone for entry in batch.entries})
    facts: dict[Key, BaseRow | None] = {}
    changes: dict[str, int] = {}
    texts = {row.text for row in replaced.values()}
    for batch in gone:
        for entry in batch.entries:
            before = facts.get(entry.key, replaced.get(entry.key))
            facts[entry.key] = BaseRow.of(entry, batch, before) if entry.op == "upsert" else None
            changes[entry.namespace] = batch.version
            texts |= {entry.text} if entry.text is not None else set()
    texts -= {row.text for row in facts.values() if row is not None}
    last = gone[-1]
    return Compaction(base, Head(last.version, last.chain), last.created_at, facts, changes, replaced, frozenset(texts))


def apply(connection: Connection, name: str, step: Compaction, unused: Sequence[Mapping[str, Any]]) -> bool:
    """Within a transaction beside which nobody else writes; `unused`: keys of rows of the embedding cache that go, too.
    False, and nothing is written, if the log does not begin where the step does. Raises StoreCorrupt."""
    if Base.read(connection, name) != step.before:
        return False
    touched = base_changes.c.namespace.in_(step.changes)
    older: dict[str, int] = {row[0]: row[1] for row in connection.execute(select(base_changes).where(touched))}
    rows = [row for row in step.facts.values() if row is not None]
    plus = [int.from_bytes(row.digest, "big") for row in rows]
    minus = [int.from_bytes(row.digest, "big") for row in step.replaced.values()]
    plus += [change_digest(*change) for change in step.changes.items()]
    minus += [change_digest(*change) for change in older.items()]
    _replace(connection, base_facts, ("namespace", "id"), step.replaced, [_values(row) for row in rows])
    changed = [{"namespace": namespace, "version": version} for namespace, version in step.changes.items()]
    _replace(connection, base_changes, ("namespace",), [(namespace,) for namespace in older], changed)
    for table in (entries, batches):
        connection.execute(delete(table).where(table.c.version <= step.head.version))
    base = Base(step.head, step.created_at, added_up(step.before.total, plus, minus))
    connection.execute(delete(bases))
    connection.execute(insert(bases), base.values)
    _delete(connection, embeddings, ("encoder", "text_hash"), [tuple(row.values()) for row in unused])
    return True


def _values(row: BaseRow) -> dict[str, Any]:
    return dict(zip(base_facts.c.keys(), (*row.values, row.digest), strict=True))


def _replace(connection: Connection, table: Any, key: Sequence[str], old: Any, new: list[dict[str, Any]]) -> None:
    _delete(connection, table, key, list(old))
    if new:
        connection.execute(insert(table), new)


def _delete(connection: Connection, table: Any, key: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        statement = delete(table)
        for name in key:
            statement = statement.where(table.c[name] == bindparam(f"old_{name}"))
        names = [f"old_{name}" for name in key]
        connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])
