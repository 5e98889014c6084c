"""Where a log begins: version 0, or the facts as of the oldest version that is kept, once older batches were let go.

The base is checked as a whole by a sum: of the SHA-256 of every row, modulo 2²⁵⁶. So a step that lets history go reads
and writes only the rows that it changes, however many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, select

from kb.errors import StoreCorrupt
from kb.facts import Fact, Key
from kb.log.batch import GENESIS, Batch, Entry
from kb.log.marker import Head
from kb.log.schema import base_changes, base_facts, bases
from kb.metadata import decode_metadata

_MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class Base:
    """The version that the log goes on from."""

    head: Head = field(default_factory=lambda: Head(0, GENESIS))
    created_at: float = 0.0
    """Unix seconds of its batch."""
    total: int = 0
    """The sum of its rows."""

    @property
    def values(self) -> dict[str, Any]:
        """Its row."""
        version, chain, total = self.head.version, self.head.chain, self.total.to_bytes(32, "big")
        seal = _digest(version, chain.hex(), self.created_at, total.hex())
        row = {"one": True, "version": version, "chain": chain, "created_at": self.created_at}
        return {**row, "total": total, "seal": seal}

    @classmethod
    def read(cls, connection: Connection, name: str) -> Base:
        """That of the log called `name`. Raises StoreCorrupt."""
        row = connection.execute(select(bases)).one_or_none()
        if row is None:
            return cls()
        base = cls(Head(row.version, row.chain), row.created_at, int.from_bytes(row.total, "big"))
        if base.values != dict(row._mapping):
            raise StoreCorrupt(name, "the log is damaged: its base is not what was written")
        return base


@dataclass(frozen=True, slots=True)
class BaseRow:
    """A fact at the base, and the batch that wrote it."""

    namespace: str
    id: str
    text: str
    metadata: str
    expires_at: float | None
    version: int
    created_at: float
    """When it was first inserted."""
    kind: str
    written_at: float
    """When this version of it was."""

    @classmethod
    def of(cls, entry: Entry, batch: Batch, before: BaseRow | None) -> BaseRow:
        """What an upsert in `batch` makes, with `before` in its place until then."""
        assert entry.text is not None
        assert entry.metadata is not None
        created_at = batch.created_at if before is None else before.created_at
        said = (entry.namespace, entry.id, entry.text, entry.metadata, entry.expires_at)
        return cls(*said, batch.version, created_at, batch.kind, batch.created_at)

    @classmethod
    def read(cls, row: Any, name: str) -> BaseRow:
        """Of a row of the table. Raises StoreCorrupt unless it is what was written."""
        *values, digest = row
        found = cls(*values)
        if found.digest != digest:
            raise StoreCorrupt(name, "the log is damaged: a fact of its base is not what was written")
        return found

    @property
    def values(self) -> tuple[Any, ...]:
        """In the order of the table's columns, without the digest."""
        said = (self.namespace, self.id, self.text, self.metadata, self.expires_at)
        return (*said, self.version, self.created_at, self.kind, self.written_at)

    @property
    def digest(self) -> bytes:
        """SHA-256 of what it says."""
        return _digest(*self.values)

    @property
    def key(self) -> Key:
        """(namespace, id)"""
        return (self.namespace, self.id)

    @property
    def fact(self) -> Fact:
        """As a snapshot holds it."""
        metadata = decode_metadata(self.metadata)
        return Fact(self.id, self.namespace, self.text, metadata, self.expires_at, self.version, self.created_at)

    @property
    def entry(self) -> Entry:
        """As a batch holds it."""
        return Entry("upsert", self.namespace, self.id, self.text, self.metadata, self.expires_at)


@dataclass(frozen=True, slots=True)
class Beginning:
    """All that holds at a base."""

    base: Base
    facts: dict[Key, Fact]
    changes: dict[str, int]
    """The newest version that touched each namespace."""

    @classmethod
    def read(cls, connection: Connection, name: str, rows_at_once: int) -> Beginning:
        """In one transaction. Raises StoreCorrupt unless every row is there, and nothing else."""
        base = Base.read(connection, name)
        facts, changes, total = dict[Key, Fact](), dict[str, int](), 0
        rows = connection.execution_options(yield_per=rows_at_once).execute(select(base_facts))
        with closing(rows):
            for row in rows:
                found = BaseRow.read(row, name)
                facts[found.key] = found.fact
                total += int.from_bytes(row.digest, "big")
        for namespace, version in connection.execute(select(base_changes)):
            changes[namespace] = version
            total += change_digest(namespace, version)
        if total % _MODULUS != base.total:
            raise StoreCorrupt(name, "the log is damaged: its base does not hold what was written")
        return cls(base, facts, changes)


def change_digest(namespace: str, version: int) -> int:
    """What a namespace's newest version adds to a base's sum."""
    return int.from_bytes(_digest(namespace, version), "big")


def added_up(total: int, plus: Iterable[int], minus: Iterable[int]) -> int:
    """A base's sum after rows came and others went."""
    return (total + sum(plus) - sum(minus)) % _MODULUS


def _digest(*values: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(values)).digest()
