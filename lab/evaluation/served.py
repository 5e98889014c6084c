"""Right answers as a server gives them: facts are found among all of a set, and mounted unless they lag behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.measures import contains
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap, mcnemar, paired_difference
from lab.evaluation.subject import Advance, Ask, Respondent, Setup
from lab.questions.question import Pool, Question

WAYS = 4
"""How each question is asked."""


async def measure(
    pool: Pool, base: KnowledgeBase, setup: Setup, plain: Setup, respondent: Respondent, advance: Advance
) -> Findings:
    """`base` is filled with the pool's facts. `plain` is the model without φ, which reads pasted facts."""
    base.upsert({str(place): fact.text for place, fact in enumerate(pool.facts)})
    questions = pool.questions
    served = [base.ask(question.text) for question in questions]
    everything = [base.ask(question.text, max_gap=float("inf")) for question in questions]
    right = {
        "as served": await _right(questions, served, setup, respondent, advance),
        "all found mounted": await _right(questions, everything, setup, respondent, advance),
        "as served, pasted": await _right(questions, _pasted(served), plain, respondent, advance),
        "all found, pasted": await _right(questions, _pasted(everything), plain, respondent, advance),
    }
    findings = Findings(f"served: {pool.dataset}, {len(questions)} questions, {len(pool.facts)} facts")
    findings.figures["facts mounted"] = bootstrap([len(ask.facts) for ask in served])
    findings.figures |= {f"right, {way}": bootstrap(found) for way, found in right.items()}
    for other in list(right)[1:]:
        findings.figures[f"as served - {other}"] = paired_difference(right["as served"], right[other])
        findings.figures[f"p that it is as {other} (McNemar)"] = mcnemar(right["as served"], right[other])
    return findings


async def _right(
    questions: Sequence[Question], asks: Sequence[Ask], setup: Setup, respondent: Respondent, advance: Advance
) -> list[bool]:
    replies = await respondent.answers(setup, asks, advance)
    return [
        contains(reply.text, question.answers, question.numeric)
        for question, reply in zip(questions, replies, strict=True)
    ]


def _pasted(asks: Sequence[Ask]) -> list[Ask]:
    return [replace(ask, mounted=False) for ask in asks]
