"""Facts, the changes made to them, and the limits that both obey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kb.errors import (
    FactNotFound,
    InvalidChange,
    InvalidLine,
    KnowledgeError,
    StoreClosed,
    StoreCorrupt,
    StoreLocked,
    StoreUnavailable,
    UnknownVersion,
    VersionConflict,
    VersionGone,
    WriteFailed,
)

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Key: TypeAlias = tuple[str, str]
"""(namespace, id)"""
SearchMethod: TypeAlias = Literal["dense", "lexical", "hybrid"]
"""By meaning (sentence embeddings), by words, or by both."""

DEFAULT_NAMESPACE = "default"
NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._:@~-]*"
"""Of ids and namespaces. The first character is a letter or digit, so that no id is "." or ".." in a URL path."""
LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z in unix seconds: the last that ISO 8601 with four digits can say."""
LAST_VERSION = 2**63 - 1
"""The greatest that a database holds."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact as a snapshot holds it."""

    id: str
    namespace: str
    text: str
    metadata: Mapping[str, JSON]
    expires_at: float | None
    """Unix seconds; None: never."""
    version: int
    """Store version of the fact's last upsert."""
    created_at: float
    """Unix seconds at which this id came to be (kept over later upserts)."""

    @property
    def key(self) -> Key:
        """The fact's place in a snapshot: (namespace, id)."""
        return (self.namespace, self.id)

    def expired(self, now: float) -> bool:
        """Whether the fact is gone at `now` (unix seconds)."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class Upsert:
    """Insert a fact, or replace the one of the same namespace and id wholly."""

    id: str | None
    """None: the store makes a ULID."""
    namespace: str
    text: str
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    expires_at: float | None = None
    """Unix seconds; None: never."""
    if_version: int | None = None
    """What the fact's version must be when this takes effect; 0: there must be no such fact; None: no matter."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a fact that exists."""

    id: str
    namespace: str
    if_version: int | None = None
    """What the fact's version must be when this takes effect, at least 1; None: no matter."""


Change: TypeAlias = Upsert | Delete


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one fact and one batch may hold."""

    id_chars: int = 128
    namespace_chars: int = 64
    text_chars: int = 4096
    metadata_bytes: int = 4096
    metadata_depth: int = 8
    batch_changes: int = 1000


__all__ = [
    "DEFAULT_NAMESPACE",
    "JSON",
    "LAST_SECOND",
    "LAST_VERSION",
    "NAME_PATTERN",
    "Change",
    "Delete",
    "Fact",
    "FactNotFound",
    "InvalidChange",
    "InvalidLine",
    "Key",
    "KnowledgeError",
    "Limits",
    "SearchMethod",
    "StoreClosed",
    "StoreCorrupt",
    "StoreLocked",
    "StoreUnavailable",
    "UnknownVersion",
    "Upsert",
    "VersionConflict",
    "VersionGone",
    "WriteFailed",
]
