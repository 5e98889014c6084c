"""Is the right fact found among all facts of a set: by meaning, by words, by both? Without the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from kb.encoder.protocol import Encoder
from kb.facts import SearchMethod
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap, paired_difference
from lab.questions.question import Pool, Question

DEPTHS = (1, 8)
METHODS: tuple[SearchMethod, ...] = get_args(SearchMethod)


def measure(pool: Pool, base: KnowledgeBase, encoder: Encoder) -> Findings:
    """Recall of every question's facts among all of the pool's, which `base` is filled with."""
    base.upsert({str(place): fact.text for place, fact in enumerate(pool.facts)})
    vectors = encoder.embed([question.text for question in pool.questions])
    findings = Findings(f"retrieval: {pool.dataset}, {len(pool.facts)} facts")
    recalls: dict[tuple[int, SearchMethod], list[float]] = {}
    for method in METHODS:
        found = [
            base.found(question.text, vector, max(DEPTHS), method)
            for question, vector in zip(pool.questions, vectors, strict=True)
        ]
        for depth in DEPTHS:
            recalls[depth, method] = [
                recall(question, texts[:depth]) for question, texts in zip(pool.questions, found, strict=True)
            ]
    for depth in DEPTHS:
        for method in METHODS:
            findings.figures[f"recall@{depth}, {method}"] = bootstrap(recalls[depth, method])
        findings.figures[f"recall@{depth}, hybrid - dense"] = paired_difference(
            recalls[depth, "hybrid"], recalls[depth, "dense"]
        )
    return findings


def recall(question: Question, found: Sequence[str]) -> float:
    """The share of the question's facts that were found, of as many as there is room for."""
    room = min(len(question.facts), len(found)) or 1
    return sum(text in found for text in question.facts) / room
