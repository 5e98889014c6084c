"""Reading the past out of the log."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from kb.errors import VersionGone
from kb.facts import JSON
from kb.log.base import BaseRow
from kb.log.batch import Batch
from kb.log.reader import LogReader
from kb.metadata import decode_metadata


@dataclass(frozen=True, slots=True)
class FactVersion:
    """What one version did to a fact. `text` is None when it deleted it."""

    version: int
    created_at: float
    """Unix seconds of the batch."""
    kind: str
    """"edit", "rollback" or "expiry"."""
    op: str
    """"upsert" or "delete"."""
    text: str | None
    metadata: Mapping[str, JSON] | None
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One version of the store."""

    version: int
    created_at: float
    kind: str
    upserted: int
    deleted: int


class History:
    """Thread-safe. What it reads is checked against the hash chain: a start may not have read it."""

    def __init__(self, log: LogReader) -> None:
        self._log = log

    def of_fact(self, namespace: str, fact_id: str, limit: int, before: int | None) -> list[FactVersion]:
        """Versions below `before` that touched the fact, newest first: all that are kept, and the one that wrote what
        the base says. Raises VersionGone, StoreCorrupt, StoreUnavailable."""
        key = (namespace, fact_id)
        versions = self._log.versions_of(namespace, fact_id, limit, before)
        found = [_fact_version(self._log.excerpt(version, {key})) for version in versions]
        row = self._log.base_rows([key]).get(key) if len(found) < limit else None
        if row is not None and row.version < _below(found, before):
            found.append(_base_version(row))
        # Who was told of the base's version may go on below it, and finds nothing there.
        if not found and (row is None or row.version != before):
            self._require_kept(before)
        return found

    def of_store(self, limit: int, before: int | None) -> list[LogEntry]:
        """Versions below `before`, newest first. Raises VersionGone, StoreCorrupt, StoreUnavailable."""
        oldest = self._require_kept(before)
        newest = self._log.newest_version(before)
        found = [_log_entry(batch) for batch in self._log.between(max(oldest + 1, newest - limit + 1), newest)]
        return found[::-1]

    def _require_kept(self, before: int | None) -> int:
        """The version at which the log begins, if there is anything below `before`."""
        oldest = self._log.base().head.version
        if before is not None and oldest and before <= oldest:
            raise VersionGone(before, oldest)
        return oldest

    def of_namespaces(self, namespaces: Collection[str], limit: int, before: int | None) -> list[LogEntry]:
        """Versions below `before` that touched these namespaces, newest first; only what they did there is counted.
        Raises VersionGone, StoreCorrupt, StoreUnavailable."""
        self._require_kept(before)
        versions = self._log.versions_touching(namespaces, limit, before)
        batches = (batch for version in versions for batch in self._log.between(version, version))
        return [_log_entry(_within(batch, namespaces)) for batch in batches]


def _fact_version(batch: Batch) -> FactVersion:
    (entry,) = batch.entries
    return FactVersion(
        version=batch.version,
        created_at=batch.created_at,
        kind=batch.kind,
        op=entry.op,
        text=entry.text,
        metadata=None if entry.metadata is None else decode_metadata(entry.metadata),
        expires_at=entry.expires_at,
    )


def _below(found: Sequence[FactVersion], before: int | None) -> float:
    return found[-1].version if found else math.inf if before is None else before


def _base_version(row: BaseRow) -> FactVersion:
    fact = row.fact
    return FactVersion(row.version, row.written_at, row.kind, "upsert", row.text, fact.metadata, row.expires_at)


def _within(batch: Batch, namespaces: Collection[str]) -> Batch:
    return replace(batch, entries=tuple(entry for entry in batch.entries if entry.namespace in namespaces))


def _log_entry(batch: Batch) -> LogEntry:
    return LogEntry(batch.version, batch.created_at, batch.kind, batch.upserted, batch.deleted)
