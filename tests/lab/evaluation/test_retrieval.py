"""What is found among all facts, and what is made of it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from lab.evaluation import retrieval, served
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.statistics import Estimate, bootstrap, mcnemar
from lab.evaluation.subject import Respondent, Setup, Subject
from lab.questions.sources import load_pool
from tests.kb.hashing import HashEncoder
from tests.lab.evaluation.invented import QUESTION


def test_recall_is_the_share_found_of_what_there_is_room_for() -> None:
    two = replace(QUESTION, facts=("one", "two"))
    assert retrieval.recall(two, ["one"]) == 1
    assert retrieval.recall(two, ["one", "three"]) == 0.5
    assert retrieval.recall(two, []) == 0


def test_names_are_found_by_their_words(tmp_path: Path) -> None:
    """By an encoder that knows no meaning."""
    pool = load_pool("names-10k", None, "test", questions=40, seed=1)
    gold = {text for question in pool.questions for text in question.facts}
    small = replace(
        pool,
        facts=tuple(fact for fact in pool.facts[:600] if fact.text not in gold)
        + tuple(fact for fact in pool.facts if fact.text in gold),
    )
    encoder = HashEncoder()
    with closing(KnowledgeBase(tmp_path, encoder, top_k=8, min_score=0.2, min_best_score=0.35, max_gap=4.0)) as base:
        figures = retrieval.measure(small, base, encoder).figures
    by_words, by_meaning = figures["recall@8, lexical"], figures["recall@8, dense"]
    assert isinstance(by_words, Estimate)
    assert isinstance(by_meaning, Estimate)
    assert by_words.mean > 0.95
    assert by_meaning.mean < 0.3
    assert by_words.n == 40


def test_served_answers_are_compared_in_pairs(subject: Subject, respondent: Respondent, tmp_path: Path) -> None:
    pool = load_pool("synthetic", None, "test", questions=2, seed=1)
    bounds = {"min_score": -1.0, "min_best_score": -1.0, "max_gap": 0.0}
    with closing(KnowledgeBase(tmp_path, subject.encoder, top_k=3, **bounds)) as base:
        done: list[int] = []
        setups = Setup(subject.model, subject.learned), Setup(subject.model, None)
        found = asyncio.run(served.measure(pool, base, *setups, respondent, done.append))
        assert len(base.ask(pool.questions[0].text, max_gap=4.0).facts) == 3
    assert found.figures["facts mounted"] == bootstrap([1, 1])
    assert 0 <= found.figures["p that it is as all found, pasted (McNemar)"] <= 1
    assert sum(done) == served.WAYS * len(pool.questions)


def test_mcnemar_counts_only_what_differs() -> None:
    assert mcnemar([True, False], [True, False]) == 1
    assert mcnemar([True] * 6 + [False] * 4, [False] * 6 + [False] * 4) == 2 / 2**6
