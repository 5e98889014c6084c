"""The `knowledge` field of requests and responses."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from kb.facts import NAME_PATTERN, Limits
from server.http.schemas.base import Request

LIMITS = Limits()
Namespace = Annotated[str, Field(min_length=1, max_length=LIMITS.namespace_chars, pattern=f"^{NAME_PATTERN}$")]
FactId = Annotated[str, Field(min_length=1, max_length=LIMITS.id_chars, pattern=f"^{NAME_PATTERN}$")]
Version = Annotated[int, Field(ge=0, le=2**63 - 1)]
TopK = Annotated[int, Field(ge=0, le=4096)]
Score = Annotated[float, Field(ge=-1, le=1)]


class KnowledgeRequest(Request):
    """Which facts to mount. Absent fields take the server's defaults."""

    enabled: bool | None = None
    namespace: Namespace | None = None
    top_k: TopK | None = None
    """At most so many facts; 0: none."""
    min_score: Score | None = None
    """Least inner product of query and fact."""
    min_version: Version | None = None
    """Answer from this version of the knowledge or a newer one."""
    require_grounded: bool | None = None
    """Refuse rather than answer without a fact that fits. The answer is then held back until it is complete."""


class KnowledgeFact(TypedDict):
    """A fact that was mounted."""

    id: str
    version: int
    score: float
    attention: float | None
    page: str
    """Names the K/V pages that were attended to: a digest of model, preamble and the fact's text."""


class KnowledgeReport(TypedDict):
    """What an answer was drawn from."""

    version: int
    retrieval_ms: float
    grounded: float | None
    """How likely a mounted fact answers the question, in [0, 1]; null where it cannot be told."""
    facts: list[KnowledgeFact]
