"""A knowledge base of the evaluation's own, searched and gated as the server does it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kan.knowledge.fit import Fit
from kb.encoder.protocol import Encoder
from kb.facts import SearchMethod, Upsert
from kb.index.search import relevance
from kb.index.segment import Vectors
from kb.mounting import to_mount
from kb.snapshot import Hit
from kb.store import Store
from lab.evaluation.subject import Ask, Given
from server.service.retrieval import fits_of

NAMESPACE = "evaluation"


@dataclass(frozen=True, slots=True)
class LookUp:
    """What was found for a question, best first."""

    question: str
    hits: tuple[Hit, ...]
    """To be mounted."""
    fits: tuple[Fit, ...]
    """One per hit."""
    others: tuple[float, ...]
    """Scores of what is not worth mounting beside them."""

    def ask(self, logprobs: int | None = None) -> Ask:
        """The question with what is mounted for it."""
        given = (Given(hit.fact.text, fit) for hit, fit in zip(self.hits, self.fits, strict=True))
        return Ask(self.question, tuple(given), logprobs=logprobs)


class KnowledgeBase:
    """A store under a directory; close it. Facts have ids, so that they can be edited."""

    def __init__(
        self,
        directory: Path,
        encoder: Encoder,
        *,
        top_k: int,
        min_score: float,
        min_best_score: float,
        max_gap: float,
        drop_covered: bool = False,
    ) -> None:
        self._store = Store.open(directory, encoder)
        self._encoder = encoder
        self._top_k = top_k
        self._min_score = min_score
        self._min_best_score = min_best_score
        self._max_gap = max_gap
        self._drop_covered = drop_covered

    def upsert(self, facts: Mapping[str, str]) -> None:
        """Insert or replace facts: id -> text."""
        items = iter(facts.items())
        while batch := list(islice(items, 500)):
            self._store.apply([Upsert(fact_id, NAMESPACE, text) for fact_id, text in batch])

    def look_up(self, question: str, *, max_gap: float | None = None) -> LookUp:
        """What retrieval finds for the question; `max_gap`: other than the base's."""
        vector = self._encoder.embed([question])[0]
        bounds = (self._min_score, time.time(), self._min_best_score)
        everything = self._store.snapshot.search(NAMESPACE, vector, self._top_k, *bounds, text=question)
        gap = self._max_gap if max_gap is None else max_gap
        hits = to_mount(question, everything, max_gap=gap, drop_covered=self._drop_covered and max_gap is None)
        found = fits_of(vector, hits)
        return LookUp(question, hits, found, tuple(hit.score for hit in everything if hit not in hits))

    def ask(self, question: str, *, max_gap: float | None = None) -> Ask:
        """The question with what retrieval mounts for it; `max_gap`: other than the base's."""
        return self.look_up(question, max_gap=max_gap).ask()

    def found(self, question: str, vector: Vectors, k: int, method: SearchMethod) -> list[str]:
        """Texts of the k best facts, whatever their scores; `vector` is the question's, float32 [dim]."""
        hits = self._store.snapshot.search(NAMESPACE, vector, k, -1.0, time.time(), text=question, method=method)
        return [hit.fact.text for hit in hits]

    def best_relevance(self, question: str, method: SearchMethod) -> float:
        """Of the facts that would be mounted, whatever the least scores; -1 for an empty base."""
        vector = self._encoder.embed([question])[0]
        bounds = (self._top_k, -1.0, time.time())
        hits = self._store.snapshot.search(NAMESPACE, vector, *bounds, text=question, method=method)
        return max((relevance(hit.score, hit.lexical, method) for hit in hits), default=-1.0)

    def close(self) -> None:
        self._store.close()
