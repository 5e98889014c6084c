"""A knowledge base of the evaluation's own, searched and gated as the server does it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from kan.knowledge.fit import fits
from kb.encoder.protocol import Encoder
from kb.facts import Upsert
from kb.store import Store
from lab.evaluation.subject import Ask, Given

NAMESPACE = "evaluation"


class KnowledgeBase:
    """A store under a directory; close it. Facts have ids, so that they can be edited."""

    def __init__(
        self, directory: Path, encoder: Encoder, *, top_k: int, min_score: float, min_best_score: float
    ) -> None:
        self._store = Store.open(directory, encoder)
        self._encoder = encoder
        self._top_k = top_k
        self._min_score = min_score
        self._min_best_score = min_best_score

    def upsert(self, facts: Mapping[str, str]) -> None:
        """Insert or replace facts: id -> text."""
        items = iter(facts.items())
        while batch := list(islice(items, 500)):
            self._store.apply([Upsert(fact_id, NAMESPACE, text) for fact_id, text in batch])

    def ask(self, question: str) -> Ask:
        """The question with what retrieval mounts for it."""
        vector = self._encoder.embed([question])[0]
        bounds = (self._min_score, time.time(), self._min_best_score)
        hits = self._store.snapshot.search(NAMESPACE, vector, self._top_k, *bounds)
        found = fits(vector, np.stack([hit.vector for hit in hits])) if hits else ()
        return Ask(question, tuple(Given(hit.fact.text, fit) for hit, fit in zip(hits, found, strict=True)))

    def best_score(self, question: str) -> float:
        """Relevance of the best fact, whatever the least score; -1 for an empty base."""
        vector = self._encoder.embed([question])[0]
        hits = self._store.snapshot.search(NAMESPACE, vector, 1, -1.0, time.time())
        return hits[0].score if hits else -1.0

    def close(self) -> None:
        self._store.close()
