"""Documents: several facts that were split out of one text. What a document is, its facts say in their metadata, under
"document"; there is no other record. So they take part in history, rollback, export and filters as all facts do.

    {"document": {"id": "handbook", "part": 3, "parts": 12, "offset": 1840, "headings": ["Refunds", "Deadlines"]}}

A fact's id is made of the document's and of its text: what an edit of the document leaves as it was keeps id and pages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Final

from kb.errors import KnowledgeError
from kb.facts import JSON, Change, Delete, Fact, Limits, Upsert
from kb.filters import OneOf
from kb.metadata import encode_metadata
from kb.snapshot import Snapshot

KEY: Final = "document"
"""Of a fact's metadata."""
ID_FIELD: Final = f"{KEY}.id"
"""As filters have it."""
ID_CHARS: Final = Limits().id_chars - 28
"""Of a document: what its facts' ids add has room."""


class DocumentConflict(KnowledgeError):
    """A document is not as an edit expects it; nothing was applied. `index`: its position in the edit."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class Outdated(KnowledgeError):
    """A document has changed since an edit of it was planned; planned again, it may succeed."""


class DocumentNotFound(KnowledgeError):
    """A document that is to be deleted does not exist."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document's text that is to be a fact."""

    text: str
    offset: int
    """Where it begins in the document, in characters."""
    headings: tuple[str, ...] = ()
    """Those it stands under, the outermost first."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document to be written, or to be replaced wholly."""

    id: str
    namespace: str
    pieces: Sequence[Piece]
    """None at all: it is deleted."""
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    """Of each of its facts."""
    expires_at: float | None = None
    if_version: int | None = None
    """What its version must be: the newest of its facts'. 0: there must be none; None: no matter."""
    single: bool = False
    """It may be one fact, of the document's own id and without mark; such a one is replaced, too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes a snapshot's facts those of a document."""

    document: Document
    changes: tuple[Change, ...]
    facts: int
    """How many the document has then."""
    texts: tuple[str, ...]
    """Of those that are written."""
    new_texts: frozenset[str]
    """Those of them that none of the document's facts had."""
    planned_from: tuple[tuple[str, int], ...]
    """Ids and versions of the facts that it had."""

    def require_current(self, snapshot: Snapshot) -> None:
        """Raises Outdated if the document is another one in this snapshot."""
        if _state(_held(snapshot, self.document)) != self.planned_from:
            raise Outdated(f"document {self.document.id!r} in namespace {self.document.namespace!r} has changed")


@dataclass(frozen=True, slots=True)
class DocumentSummary:
    """A document as it is held."""

    id: str
    title: str | None
    """The heading that its first fact stands under; None: under none."""
    facts: int
    version: int
    """The newest of its facts'."""
    created_at: float
    """Unix seconds: of its oldest fact."""


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Some documents in the order of their ids; `next_cursor` continues after them (None: that was all)."""

    documents: tuple[DocumentSummary, ...]
    next_cursor: str | None


def plan(snapshot: Snapshot, document: Document, index: int = 0) -> Plan:
    """Raises DocumentConflict where `if_version` is not met."""
    held = _held(snapshot, document)
    version = max((fact.version for fact in held), default=0)
    if document.if_version not in (None, version):
        now = f"is at version {version}" if version else "does not exist"
        wanted = f"at version {document.if_version}" if document.if_version else "not to exist"
        name = f"document {document.id!r} in namespace {document.namespace!r}"
        raise DocumentConflict(index, f"{name} {now}, and is expected {wanted}")
    wanted_facts = _facts(document)
    kept = {fact.id for fact in wanted_facts}
    written = [fact for fact in wanted_facts if not _same(snapshot.find(document.namespace, fact.id or ""), fact)]
    deleted = [Delete(fact.id, fact.namespace) for fact in held if fact.id not in kept]
    texts = tuple(fact.text for fact in written)
    new = frozenset(texts).difference(fact.text for fact in held)
    return Plan(document, (*written, *deleted), len(wanted_facts), texts, new, _state(held))


def documents(snapshot: Snapshot, namespace: str, limit: int, cursor: str | None, now: float) -> DocumentPage:
    """Up to `limit` documents with ids greater than `cursor`, ascending."""
    summaries = (
        _summary(name, facts)
        for name in snapshot.values(namespace, ID_FIELD, cursor or "")
        if (facts := list(snapshot.facts(namespace, now, OneOf(ID_FIELD, (name,)))))
    )
    found = tuple(islice(summaries, limit + 1))
    return DocumentPage(found[:limit], found[limit - 1].id if len(found) > limit else None)


def _summary(name: str, facts: Sequence[Fact]) -> DocumentSummary:
    newest, oldest = max(fact.version for fact in facts), min(fact.created_at for fact in facts)
    return DocumentSummary(name, _title(facts), len(facts), newest, oldest)


def _title(facts: Sequence[Fact]) -> str | None:
    """Whoever writes a fact may write anything into its metadata."""
    first = min(facts, key=lambda fact: _part(_mark(fact)))
    headings = _mark(first).get("headings")
    title = headings[0] if isinstance(headings, list) and headings else None
    return title if isinstance(title, str) else None


def _mark(fact: Fact) -> Mapping[str, JSON]:
    mark = fact.metadata.get(KEY)
    return mark if isinstance(mark, dict) else {}


def _part(mark: Mapping[str, JSON]) -> float:
    part = mark.get("part")
    return part if isinstance(part, int | float) else math.inf


def _held(snapshot: Snapshot, document: Document) -> list[Fact]:
    """The document's facts, those whose time is over included, by id."""
    held = list(snapshot.facts(document.namespace, -math.inf, OneOf(ID_FIELD, (document.id,))))
    single = snapshot.find(document.namespace, document.id) if document.single else None
    return held if single is None or single in held else [*held, single]


def _state(facts: Sequence[Fact]) -> tuple[tuple[str, int], ...]:
    return tuple((fact.id, fact.version) for fact in facts)


def _facts(document: Document) -> list[Upsert]:
    if document.single and len(document.pieces) == 1:
        text, metadata = document.pieces[0].text, document.metadata
        return [Upsert(document.id, document.namespace, text, metadata, document.expires_at)]
    seen: Counter[str] = Counter()
    facts: list[Upsert] = []
    for part, piece in enumerate(document.pieces):
        digest = blake2b(piece.text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        seen[digest] += 1
        fact_id = f"{document.id}:{digest}" + (f"-{seen[digest]}" if seen[digest] > 1 else "")
        mark: dict[str, JSON] = {
            "id": document.id,
            "part": part,
            "parts": len(document.pieces),
            "offset": piece.offset,
            "headings": list(piece.headings),
        }
        metadata = {**document.metadata, KEY: mark}
        facts.append(Upsert(fact_id, document.namespace, piece.text, metadata, document.expires_at))
    return facts


def _same(old: Fact | None, new: Upsert) -> bool:
    """Whether the fact says this already."""
    if old is None or (old.text, old.expires_at) != (new.text, new.expires_at):
        return False
    try:
        return encode_metadata(old.metadata) == encode_metadata(new.metadata)
    except (TypeError, ValueError):  # not valid; whoever applies it says so
        return False
