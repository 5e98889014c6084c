"""What a request may say about the knowledge it is answered from."""

from __future__ import annotations

from dataclasses import dataclass

from kb.facts import SearchMethod
from kb.filters import Filter
from server.service.access import EVERYTHING, Access


@dataclass(frozen=True, slots=True)
class KnowledgeOptions:
    """None: the server's default, unless something else is said."""

    enabled: bool = True
    namespace: str | None = None
    """None: the caller's home."""
    access: Access = EVERYTHING
    """What the caller may read."""
    top_k: int | None = None
    """At most so many facts."""
    min_score: float | None = None
    """Least relevance of a fact, of the best one too."""
    max_gap: float | None = None
    """How far behind the best fact another may rank."""
    drop_covered: bool | None = None
    """Whether facts that a better one covers are left out; None: the server's default, but no if `max_gap` is said."""
    retrieval: SearchMethod | None = None
    where: Filter | None = None
    """Only facts whose metadata satisfies it; None: all."""
    follow_up: bool | None = None
    """Whether a turn that points back is looked up with what it points to."""
    min_version: int | None = None
    """Answer from this version of the knowledge or a newer one."""
    require_grounded: bool = False
    """Refuse rather than answer without a fact that fits."""
    citations: bool = True
    """Whether answers say which of their words were taken from which fact."""
