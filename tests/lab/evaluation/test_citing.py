"""Whether what an answer cites is what it was asked for."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lab.evaluation import citing
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Advance, Ask, Given, Reply, Respondent, Setup, Subject
from lab.questions.question import Fact, Pool
from tests.lab.evaluation.invented import FACTS, FITS, QUESTION

ASK = Ask(QUESTION.text, tuple(map(Given, FACTS, FITS)))


@pytest.mark.parametrize(
    ("reply", "right", "gold"),
    [
        ("She is 42.", True, (True,)),
        ("She is 12.", False, (False,)),
        ("I do not say.", False, ()),
        ("42. Late.", True, (True, False)),
    ],
)
def test_a_citation_is_right_if_the_fact_answers(reply: str, right: bool, gold: tuple[bool, ...]) -> None:
    found = citing.cited(QUESTION, ASK, Reply(reply, (), ()))
    assert (found.right, found.gold) == (right, gold)
    assert len(found.facts) == len(gold)


def test_precision_is_of_right_answers(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["She is 42.", "It is late, at 42.", "42, I say: late was the line 4.", "12"]

    async def answers(_: Respondent, setup: Setup, asks: list[Ask], advance: Advance) -> list[Reply]:
        return [Reply(text, (), ()) for text in said]

    monkeypatch.setattr(Respondent, "answers", answers)
    facts = tuple(Fact(text, "", "") for text in FACTS)
    pool = Pool("synthetic", tuple(replace(QUESTION, text="Mara?") for _ in said), facts)
    bounds = {"min_score": -1.0, "min_best_score": -1.0, "max_gap": 4.0}
    with closing(KnowledgeBase(tmp_path / "base", subject.encoder, top_k=3, **bounds)) as base:
        setup = Setup(subject.model, subject.learned)
        respondent = Respondent(subject, tmp_path / "pages")
        found = asyncio.run(citing.measure(pool, base, setup, respondent, lambda _: None))
    assert len(found) == len(citing.WAYS)
    figures = found[-1].figures
    assert figures["right"] == bootstrap([True, True, True, False])
    assert figures["right that cite"] == bootstrap([True, True, True])
    assert figures["wrong that cite"] == bootstrap([True])
    assert figures["precision (cited facts that answer)"] == bootstrap([True, True, False])
    assert figures["facts mounted"] == bootstrap([3, 3, 3, 3])
    assert [one["reply"] for one in found[-1].examples] == said[2:3]
