"""/admin/kb."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from pydantic.types import JsonValue
from typing_extensions import TypedDict

from kb.documents import ID_CHARS
from kb.facts import LAST_SECOND, LAST_VERSION, NAME_PATTERN, SearchMethod
from server.http.schemas.base import Request
from server.http.schemas.filters import filter_at
from server.http.schemas.knowledge import LIMITS, Gap, Namespace, Score, TopK, Version
from server.service.access import Access
from server.service.options import KnowledgeOptions
from server.service.sections import Format

MAX_DOCUMENTS = 100
"""Of one edit."""
MAX_FILTER_CHARACTERS = 16_384
"""Of a filter in a query parameter."""
FactKey = Annotated[str, Field(pattern=f"^{NAME_PATTERN}/{NAME_PATTERN}$", max_length=256)]
"""namespace/id"""


def _told(**bounds: JsonValue) -> Any:
    """Documents bounds that the store checks."""
    return Field(json_schema_extra=bounds)


def _name(longest: int) -> Any:
    return _told(minLength=1, maxLength=longest, pattern=f"^{NAME_PATTERN}$")


class FactInput(Request):
    """A fact to add, or to replace wholly. The store checks the bounds, and names every fact that breaks one."""

    id: Annotated[str, _name(LIMITS.id_chars)]
    text: Annotated[str, _told(minLength=1, maxLength=LIMITS.text_chars)]
    namespace: Annotated[str, _name(LIMITS.namespace_chars)] | None = None
    metadata: dict[str, Any] | None = None
    expires_at: Annotated[float, _told(minimum=0, maximum=LAST_SECOND)] | None = None
    """Unix seconds in the future; null: never."""
    if_version: Annotated[int, _told(minimum=0, maximum=LAST_VERSION)] | None = None
    """Only if this is the fact's version; 0: only if there is no such fact; null: in any case."""


class DocumentInput(Request):
    """A text to be split into facts, in place of those that the document had."""

    id: Annotated[str, Field(min_length=1, max_length=ID_CHARS, pattern=f"^{NAME_PATTERN}$")]
    text: str
    format: Format = "text"
    """What borders facts may end at: of Markdown and HTML headings, too."""
    namespace: Annotated[str, _name(LIMITS.namespace_chars)] | None = None
    metadata: dict[str, Any] | None = None
    """Of each of its facts."""
    expires_at: Annotated[float, _told(minimum=0, maximum=LAST_SECOND)] | None = None
    if_version: Version | None = None
    """Only if this is the document's version, the newest of its facts'; 0: only if there is no such document."""


class PutDocuments(Request):
    """All of them or none."""

    documents: Annotated[list[DocumentInput], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]


class PutFacts(Request):
    """All of them or none."""

    facts: Annotated[list[FactInput], Field(min_length=1, max_length=10_000, fail_fast=True)]


class FactView(TypedDict):
    """A fact as it is held."""

    id: str
    namespace: str
    text: str
    metadata: dict[str, Any]
    expires_at: float | None
    version: int
    created_at: float
    """Unix seconds."""


class FactDetail(FactView):
    """A fact, and the name of its K/V pages as completions report it."""

    page: str


class Upserted(TypedDict):
    """Durable, and visible to every request from now on."""

    version: int
    upserted: int
    visible_ms: float


class DocumentWritten(TypedDict):
    """What became of a document."""

    id: str
    namespace: str
    facts: int
    """That it has now."""
    encoded: int
    """Those of them whose texts are new: only they are encoded."""


class SplitUpserted(Upserted):
    """An edit whose texts were split."""

    deleted: int
    documents: list[DocumentWritten]


class DocumentView(TypedDict):
    """A document as it is held."""

    id: str
    namespace: str
    title: str | None
    """The heading that its first fact stands under; null: under none."""
    facts: int
    version: int
    """The newest of its facts'."""
    created_at: float
    """Unix seconds."""


class DocumentList(TypedDict):
    """Some documents in the order of their ids."""

    version: int
    documents: list[DocumentView]
    next_cursor: str | None


class Deleted(TypedDict):
    """Durable, and invisible to every request from now on."""

    version: int
    deleted: int
    visible_ms: float


class FactPage(TypedDict):
    """Some facts in the order of their ids."""

    version: int
    facts: list[FactView]
    next_cursor: str | None


class SearchRequest(Request):
    """What retrieval would find."""

    query: Annotated[str, Field(min_length=1, max_length=65536)]
    namespace: Namespace | None = None
    top_k: TopK | None = None
    min_score: Score | None = None
    max_gap: Gap = 4.0
    """As in a completion's `knowledge`; absent: all that are relevant, not only those that would be mounted."""
    retrieval: SearchMethod | None = None
    filter: filter_at("filter") | None = None  # type: ignore[valid-type]
    """Only facts whose metadata satisfies it."""
    min_version: Version | None = None

    def options(self, access: Access) -> KnowledgeOptions:
        """The same for the service, of a caller who may read so much."""
        return KnowledgeOptions(
            namespace=self.namespace,
            access=access,
            top_k=self.top_k,
            min_score=self.min_score,
            max_gap=self.max_gap,
            retrieval=self.retrieval,
            where=self.filter,
        )


class SearchHit(TypedDict):
    """A fact, and its scores as in the answers' `knowledge.facts`."""

    fact: FactView
    score: float
    lexical: float


class SearchResponse(TypedDict):
    """Best first."""

    version: int
    retrieval_ms: float
    hits: list[SearchHit]


class ImportProgress(TypedDict):
    """A line of the answer to an import: progress, and in the end a summary (`done`)."""

    version: int
    imported: int
    done: bool


class AccessView(TypedDict):
    """What the key that asks may read and edit; null: everything."""

    read: list[str] | None
    edit: list[str] | None
    home: str
    """The namespace that is meant where none is named."""


class VersionResponse(TypedDict):
    """The published state, as far as the key may know of it."""

    version: int
    facts: int
    namespaces: dict[str, int]
    tombstones: int
    """Rows of deleted facts that the index still holds."""
    pages_made: float | None
    """Share of the facts' texts whose pages are made; the others' follow, or are made at their first use. null for a
    key that is bound to namespaces."""
    access: AccessView


class RollbackRequest(Request):
    """Make the facts what they were at an older version. That is a new version."""

    version: Version


class RollbackResponse(TypedDict):
    """What it took."""

    version: int
    upserted: int
    deleted: int
    visible_ms: float


class LogEntryView(TypedDict):
    """One version of the whole store."""

    version: int
    at: float
    kind: str
    upserted: int
    deleted: int


class LogPage(TypedDict):
    """Newest first; `next_before` continues."""

    versions: list[LogEntryView]
    next_before: int | None


class FactVersionView(TypedDict):
    """What one version did to a fact; no text if it deleted it."""

    version: int
    at: float
    kind: str
    operation: str
    text: str | None
    metadata: dict[str, Any] | None
    expires_at: float | None


class FactHistory(TypedDict):
    """Newest first; `next_before` continues."""

    id: str
    namespace: str
    versions: list[FactVersionView]
    next_before: int | None


class FactContent(TypedDict):
    """What a fact says."""

    text: str
    metadata: dict[str, Any]
    expires_at: float | None


class FactChange(TypedDict):
    """A fact that two versions tell differently; null: that version does not have it."""

    id: str
    namespace: str
    before: FactContent | None
    after: FactContent | None


class VersionDiff(TypedDict):
    """By namespace and id; `next_cursor` continues."""

    before: int
    after: int
    changes: list[FactChange]
    next_cursor: str | None
