"""What the `kb` commands ask of wherever the knowledge is: a running server, or a store directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from kb.facts import SearchMethod


@dataclass(frozen=True, slots=True)
class FactRow:
    """A fact as it is held. Times are unix seconds."""

    id: str
    namespace: str
    text: str
    metadata: dict[str, Any]
    expires_at: float | None
    version: int
    created_at: float


@dataclass(frozen=True, slots=True)
class HitRow:
    """A fact that a search found, and its scores: by meaning, and by words."""

    score: float
    lexical: float
    fact: FactRow


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One entry of the log, at unix seconds. `text` is None unless a fact was written."""

    version: int
    at: float
    what: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """An edit that is durable and visible."""

    version: int
    upserted: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as it is held."""

    id: str
    title: str | None
    facts: int
    version: int
    created_at: float


@dataclass(frozen=True, slots=True)
class DocumentWritten:
    """What became of a document."""

    facts: int
    encoded: int


@dataclass(frozen=True, slots=True)
class NewFact:
    """A fact to write. `expires_at` is in unix seconds."""

    id: str
    namespace: str | None
    text: str
    metadata: dict[str, Any]
    expires_at: float | None
    if_version: int | None = None
    """What the fact's version must be; 0: there must be none; None: no matter."""


class KnowledgeTarget(Protocol):
    """Every method raises CommandError, with NOT_FOUND for what does not exist, CONFLICT for what is not at the version
    that was expected. Namespace None: the usual one, unless something else is said."""

    def put(self, fact: NewFact) -> Written: ...

    def get(self, namespace: str | None, fact_id: str) -> FactRow: ...

    def delete(self, namespace: str | None, fact_id: str, if_version: int | None) -> Written: ...

    def search(
        self,
        namespace: str | None,
        query: str,
        top_k: int | None,
        min_score: float | None,
        retrieval: SearchMethod | None,
        filter: str | None,
    ) -> list[HitRow]:
        """`filter`: as JSON."""
        ...

    def import_lines(self, chunks: Iterable[bytes]) -> Written:
        """NDJSON, broken anywhere. What was written before a bad line stays written, and the error says so."""
        ...

    def export_lines(self, namespace: str | None) -> Iterator[bytes]:
        """NDJSON in chunks that end at line ends; None exports every namespace."""
        ...

    def count(self, namespace: str | None) -> int:
        """How many facts an export will hold, about: edits may come between."""
        ...

    def history(self, namespace: str | None, fact_id: str | None, limit: int, before: int | None) -> list[HistoryRow]:
        """Newest first: of one fact, or of the whole store."""
        ...

    def rollback(self, version: int) -> Written: ...
