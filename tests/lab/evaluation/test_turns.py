"""Conversations whose last turn points back."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from kb.encoder.minilm import MiniLMEncoder
from lab.evaluation import turns
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.statistics import Estimate
from lab.questions.conversations import KINDS, conversations
from server.demo.facts import demo_facts


def test_conversations_are_about_facts_that_there_are() -> None:
    asked = conversations(50, seed=1)
    known = {fact.id for fact in demo_facts()}
    assert {one.fact for one in asked} <= known
    assert [sum(one.kind == kind for one in asked) for kind in KINDS] == [50] * len(KINDS)
    assert asked == conversations(50, seed=1) != conversations(50, seed=2)
    assert not any("{" in text for one in asked for text in one.said)


def test_what_points_back_is_found_in_context_and_the_rest_as_before(tmp_path: Path) -> None:
    encoder, facts = MiniLMEncoder(), {fact.id: fact.text for fact in demo_facts() if fact.id}
    with closing(KnowledgeBase(tmp_path, encoder, top_k=8, min_score=0.2, min_best_score=0.35, max_gap=4.0)) as base:
        found = turns.measure(conversations(12, seed=1), facts, base, encoder)
    for kind, findings in zip(KINDS, found, strict=True):
        alone, context = (findings.figures[f"recall@1, {way}"] for way in ("alone", "in context"))
        assert isinstance(alone, Estimate)
        assert isinstance(context, Estimate)
        if kind in ("points back", "asks on"):
            assert context.mean > alone.mean + 0.3
        else:
            assert context.mean == alone.mean > 0.7
