"""A batch of the log, and the hash chain that binds every batch to all before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from kb.facts import Change, Fact, Key, Upsert
from kb.metadata import decode_metadata, encode_metadata

HASHED_AT_ONCE = 256
"""Entries; other threads get the interpreter in between. A batch may have a hundred thousand."""
GENESIS = hashlib.sha256(b"knowledge log, format 1").digest()

Values: TypeAlias = tuple[str, str, str, str | None, str | None, float | None]
"""op, namespace, id, text, metadata as JSON, expires_at: as the log stores them"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change as the log holds it."""

    op: str
    """"upsert" or "delete"."""
    namespace: str
    id: str
    text: str | None
    metadata: str | None
    expires_at: float | None

    @classmethod
    def of(cls, change: Change) -> Entry:
        """The entry that records `change` (validated: an upsert has its id)."""
        if isinstance(change, Upsert):
            assert change.id is not None
            metadata = encode_metadata(change.metadata).decode()
            return cls("upsert", change.namespace, change.id, change.text, metadata, change.expires_at)
        return cls("delete", change.namespace, change.id, None, None, None)

    @property
    def key(self) -> Key:
        """(namespace, id)"""
        return (self.namespace, self.id)

    @property
    def values(self) -> Values:
        """The fields in the order of the table's columns."""
        return (self.op, self.namespace, self.id, self.text, self.metadata, self.expires_at)

    def fact(self, version: int, created_at: float) -> Fact:
        """The fact that an upsert makes."""
        assert self.text is not None
        assert self.metadata is not None
        metadata = decode_metadata(self.metadata)
        return Fact(self.id, self.namespace, self.text, metadata, self.expires_at, version, created_at)


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that became visible together as one version."""

    version: int
    created_at: float
    kind: str
    """"edit", "rollback" or "expiry"."""
    entries: tuple[Entry, ...]
    chain: bytes
    """sha256 over the previous batch's chain and this batch's content."""

    @property
    def deleted(self) -> int:
        """How many facts it deletes."""
        return sum(entry.op == "delete" for entry in self.entries)

    @property
    def upserted(self) -> int:
        """How many facts it inserts or replaces."""
        return len(self.entries) - self.deleted

    @classmethod
    def following(cls, previous: bytes, version: int, created_at: float, kind: str, entries: Sequence[Entry]) -> Batch:
        """The batch that follows the one whose chain is `previous`."""
        chain = Chaining(previous, version, created_at, kind)
        for start in range(0, len(entries), HASHED_AT_ONCE):
            chain.add([entry.values for entry in entries[start : start + HASHED_AT_ONCE]])
        return cls(version, created_at, kind, tuple(entries), chain.digest())


class Chaining:
    """A batch's chain in the making: sha256 over the previous one and [version, created_at, kind, entries] as JSON."""

    def __init__(self, previous: bytes, version: int, created_at: float, kind: str) -> None:
        self._hash = hashlib.sha256(previous)
        self._hash.update(orjson.dumps([version, created_at, kind])[:-1] + b",[")
        self._separator = b""

    def add(self, some: Sequence[Values]) -> None:
        """The next entries; better not many at once."""
        if some:
            self._hash.update(self._separator + orjson.dumps(some)[1:-1])
            self._separator = b","

    def digest(self) -> bytes:
        """Of the entries so far."""
        whole = self._hash.copy()
        whole.update(b"]]")
        return whole.digest()
