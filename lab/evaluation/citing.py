"""Do an answer's citations name the fact that it was asked for? Facts are found among all of a set, as served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.measures import contains
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Advance, Ask, Reply, Respondent, Setup
from lab.questions.question import Pool, Question
from server.service.citations import CitedFacts

MAX_EXAMPLES = 20


class Cited(NamedTuple):
    """A reply, and what it cites."""

    right: bool
    facts: tuple[str, ...]
    """Texts, one for each citation."""
    gold: tuple[bool, ...]
    """Whether each of them answers the question."""


async def measure(pool: Pool, base: KnowledgeBase, setup: Setup, respondent: Respondent, advance: Advance) -> Findings:
    """`base` is filled with the pool's facts."""
    base.upsert({str(place): fact.text for place, fact in enumerate(pool.facts)})
    asks = [base.ask(question.text) for question in pool.questions]
    replies = await respondent.answers(setup, asks, advance)
    told = list(zip(pool.questions, replies, map(cited, pool.questions, asks, replies), strict=True))
    findings = Findings(f"citations: {pool.dataset}, {len(told)} questions, {len(pool.facts)} facts")
    right = [one for _, _, one in told if one.right]
    findings.figures = {"right": bootstrap([one.right for _, _, one in told])}
    for name, values in (
        ("right answers that cite", [bool(one.facts) for one in right]),
        ("precision: cited facts that answer the question, of right answers", [ok for one in right for ok in one.gold]),
        ("right answers that cite one of them", [any(one.gold) for one in right if one.facts]),
        ("wrong answers that cite", [bool(one.facts) for _, _, one in told if not one.right]),
    ):
        if values:
            findings.figures[name] = bootstrap(values)
    findings.examples = [
        {"question": question.text, "reply": reply.text, "cited": " | ".join(one.facts), "gold": question.facts[0]}
        for question, reply, one in told
        if one.right and not all(one.gold)
    ][:MAX_EXAMPLES]
    return findings


def cited(question: Question, ask: Ask, reply: Reply) -> Cited:
    """As a server would cite."""
    facts: Sequence[str] = [one.text for one in ask.facts]
    found = CitedFacts(ask.question, facts).citations(reply.text, reply.attention)
    texts = tuple(facts[one.fact] for one in found)
    gold = tuple(text in question.facts for text in texts)
    return Cited(contains(reply.text, question.answers, question.numeric), texts, gold)
