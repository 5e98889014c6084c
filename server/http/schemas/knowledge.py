"""The `knowledge` field of requests and responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from kb.facts import LAST_VERSION, NAME_PATTERN, Limits, SearchMethod
from server.http.schemas.base import Integer, Request
from server.http.schemas.filters import filter_at
from server.service.access import Access
from server.service.options import KnowledgeOptions

if TYPE_CHECKING:
    from server.service.run import Cited
    from server.service.run import KnowledgeReport as Report

LIMITS = Limits()
Namespace = Annotated[str, Field(min_length=1, max_length=LIMITS.namespace_chars, pattern=f"^{NAME_PATTERN}$")]
FactId = Annotated[str, Field(min_length=1, max_length=LIMITS.id_chars, pattern=f"^{NAME_PATTERN}$")]
Version = Annotated[Integer, Field(ge=0, le=LAST_VERSION)]
TopK = Annotated[Integer, Field(ge=0, le=4096)]
Score = Annotated[float, Field(ge=-1, le=1)]
Gap = Annotated[float, Field(ge=0, le=4)]


class KnowledgeRequest(Request):
    """Which facts to mount. Absent fields take the server's defaults."""

    enabled: bool | None = None
    namespace: Namespace | None = None
    top_k: TopK | None = None
    """At most so many facts; 0: none."""
    min_score: Score | None = None
    """Least relevance of a fact."""
    max_gap: Gap | None = None
    """How far behind the best fact another may rank; 4: as far as it likes."""
    drop_covered: bool | None = None
    """Whether a fact is left out that has fewer of the question's words than a better one, and none that it lacks."""
    retrieval: SearchMethod | None = None
    """How facts are found: by meaning, by words, or by both."""
    filter: filter_at("knowledge.filter") | None = None  # type: ignore[valid-type]
    """Only facts whose metadata satisfies it."""
    follow_up: bool | None = None
    """Whether a turn that points back ("And its depot?") is looked up with what it points to."""
    min_version: Version | None = None
    """Answer from this version of the knowledge or a newer one."""
    require_grounded: bool | None = None
    """Refuse rather than answer without a fact that fits. The answer is then held back until it is complete."""
    citations: bool | None = None
    """Whether a message's annotations say which of its words were taken from which fact. Default: true."""

    def options(self, access: Access) -> KnowledgeOptions:
        """The same for the service, of a caller who may read so much."""
        return KnowledgeOptions(
            enabled=self.enabled is not False,
            namespace=self.namespace,
            access=access,
            top_k=self.top_k,
            min_score=self.min_score,
            max_gap=self.max_gap,
            drop_covered=self.drop_covered,
            retrieval=self.retrieval,
            where=self.filter,
            follow_up=self.follow_up,
            min_version=self.min_version,
            require_grounded=bool(self.require_grounded),
            citations=self.citations is not False,
        )


class KnowledgeFact(TypedDict):
    """A fact that was mounted."""

    id: str
    version: int
    score: float
    """Inner product of the vectors of question and fact."""
    lexical: float
    """The share of the question's words that the fact has, weighed by how much they tell: in [0, 1]."""
    attention: float | None
    page: str
    """Names the K/V pages that were attended to: a digest of model, preamble and the fact's text."""


class CitedSpan(TypedDict):
    """`text[start_index:end_index]`, in characters, says what a mounted fact says."""

    start_index: int
    end_index: int
    """Behind the last character."""
    title: str
    """The fact's id."""
    url: str
    """kalmagrove:namespace/id"""


class LeftOut(TypedDict):
    """A fact that would have been mounted if its pages had been made."""

    id: str
    version: int


class KnowledgeReport(TypedDict):
    """What an answer was drawn from."""

    version: int
    retrieval_ms: float
    grounded: float | None
    """How likely the answer is right, drawn from a mounted fact: `fact_mounted` × `follows_fact`."""
    fact_mounted: float | None
    """How likely the facts that answer the question are mounted."""
    follows_fact: float | None
    """How likely the answer says what they say, if they are. All three are in [0, 1], means over `n` answers, and null
    where they cannot be told."""
    facts: list[KnowledgeFact]
    left_out: NotRequired[list[LeftOut]]
    """If there are any."""


def cited_span(one: Cited) -> CitedSpan:
    """As it is written."""
    return {"start_index": one.start, "end_index": one.end, "title": one.fact_id, "url": one.url}


def knowledge_report(report: Report) -> KnowledgeReport:
    """As it is written."""
    judgement = report.judgement
    written: KnowledgeReport = {
        "version": report.version,
        "retrieval_ms": round(report.retrieval_seconds * 1000, 3),
        "grounded": None if judgement is None else round(judgement.grounded, 4),
        "fact_mounted": None if judgement is None else round(judgement.fact_mounted, 4),
        "follows_fact": None if judgement is None else round(judgement.follows_fact, 4),
        "facts": [
            {
                "id": fact.id,
                "version": fact.version,
                "score": round(fact.score, 6),
                "lexical": round(fact.lexical, 6),
                "attention": None if fact.attention is None else round(fact.attention, 6),
                "page": fact.page,
            }
            for fact in report.facts
        ],
    }
    if report.left_out:
        written["left_out"] = [{"id": fact_id, "version": version} for fact_id, version in report.left_out]
    return written
