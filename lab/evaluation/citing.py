"""Do an answer's citations name the fact that it was asked for? Facts are found among all of a set, as served."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.measures import contains
from lab.evaluation.report import Figure, Findings
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Advance, Ask, Reply, Respondent, Setup
from lab.questions.question import Pool, Question
from server.service.citations import CitedFacts

MAX_EXAMPLES = 20
WAYS: dict[str, float | None] = {"as served": None, "all found mounted": math.inf}
"""How far behind the best fact another may rank; None: as the base has it."""


class Cited(NamedTuple):
    """A reply, and what it cites."""

    right: bool
    facts: tuple[str, ...]
    """Texts, one for each citation."""
    gold: tuple[bool, ...]
    """Whether each of them answers the question."""


async def measure(
    pool: Pool, base: KnowledgeBase, setup: Setup, respondent: Respondent, advance: Advance
) -> list[Findings]:
    """Of each of `WAYS`. `base` is filled with the pool's facts."""
    base.upsert({str(place): fact.text for place, fact in enumerate(pool.facts)})
    found = []
    for way, max_gap in WAYS.items():
        asks = [base.ask(question.text, max_gap=max_gap) for question in pool.questions]
        replies = await respondent.answers(setup, asks, advance)
        told = [
            (question, reply, cited(question, ask, reply))
            for question, ask, reply in zip(pool.questions, asks, replies, strict=True)
        ]
        title = f"citations, {way}: {pool.dataset}, {len(told)} questions, {len(pool.facts)} facts"
        found.append(Findings(title, _figures([one for *_, one in told]), examples=_examples(told)))
        found[-1].figures["facts mounted"] = bootstrap([len(ask.facts) for ask in asks])
    return found


def _figures(told: Sequence[Cited]) -> dict[str, Figure]:
    right = [one for one in told if one.right]
    values = {
        "right": [one.right for one in told],
        "right that cite": [bool(one.facts) for one in right],
        "precision (cited facts that answer)": [answers for one in right for answers in one.gold],
        "right that cite one that answers": [any(one.gold) for one in right if one.facts],
        "wrong that cite": [bool(one.facts) for one in told if not one.right],
    }
    return {name: bootstrap(some) for name, some in values.items() if some}


def _examples(told: Sequence[tuple[Question, Reply, Cited]]) -> list[dict[str, str]]:
    """Right answers that cite something else."""
    return [
        {"question": question.text, "reply": reply.text, "cited": " | ".join(one.facts), "gold": question.facts[0]}
        for question, reply, one in told
        if one.right and not all(one.gold)
    ][:MAX_EXAMPLES]


def cited(question: Question, ask: Ask, reply: Reply) -> Cited:
    """As a server would cite."""
    facts: Sequence[str] = [one.text for one in ask.facts]
    found = CitedFacts(ask.question, facts).citations(reply.text, reply.attention)
    texts = tuple(facts[one.fact] for one in found)
    gold = tuple(text in question.facts for text in texts)
    return Cited(contains(reply.text, question.answers, question.numeric), texts, gold)
