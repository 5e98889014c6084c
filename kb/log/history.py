"""Reading the past out of the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, case, func, select
from sqlalchemy.exc import SQLAlchemyError

from kb.errors import StoreUnavailable
from kb.facts import JSON
from kb.log.schema import batches, entries
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
    """Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_fact(self, namespace: str, fact_id: str, limit: int, before: int | None) -> list[FactVersion]:
        """Versions below `before` that touched the fact, newest first."""
        e = entries.c
        statement = (
            select(
                e.version,
                batches.c.created_at,
                batches.c.kind,
                e.op,
                e.text,
                e.metadata.label("data"),
                e.expires_at,
            )
            .join(batches, batches.c.version == e.version)
            .where(e.namespace == namespace, e.id == fact_id)
            .order_by(e.version.desc())
            .limit(limit)
        )
        if before is not None:
            statement = statement.where(e.version < before)
        with self._reading(), self._engine.connect() as connection:
            return [
                FactVersion(
                    version=row.version,
                    created_at=row.created_at,
                    kind=row.kind,
                    op=row.op,
                    text=row.text,
                    metadata=None if row.data is None else decode_metadata(row.data),
                    expires_at=row.expires_at,
                )
                for row in connection.execute(statement)
            ]

    def of_store(self, limit: int, before: int | None) -> list[LogEntry]:
        """Versions below `before`, newest first."""
        chosen = select(batches).order_by(batches.c.version.desc()).limit(limit)
        if before is not None:
            chosen = chosen.where(batches.c.version < before)
        b, e = chosen.subquery().c, entries.c
        statement = (
            select(
                b.version,
                b.created_at,
                b.kind,
                func.coalesce(func.sum(case((e.op == "upsert", 1), else_=0)), 0),
                func.coalesce(func.sum(case((e.op == "delete", 1), else_=0)), 0),
            )
            .outerjoin(entries, e.version == b.version)
            .group_by(b.version, b.created_at, b.kind)
            .order_by(b.version.desc())
        )
        with self._reading(), self._engine.connect() as connection:
            return [LogEntry(*row) for row in connection.execute(statement)]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, ValueError) as error:
            raise StoreUnavailable(f"the log cannot be read: {getattr(error, 'orig', None) or error}") from error
