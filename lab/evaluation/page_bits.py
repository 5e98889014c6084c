"""What 8 bits in facts' pages cost: the same questions with the same facts, pages in the model's own numbers and in 8
bits."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from lab.evaluation.conditions import mounted
from lab.evaluation.measures import contains
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap, mcnemar, paired_difference
from lab.evaluation.subject import Advance, Ask, Reply, Respondent, Setup
from lab.questions.mounting import Mounted

DISTRACTORS = 7


async def measure(
    dataset: str, questions: Sequence[Mounted], setup: Setup, own: Respondent, small: Respondent, advance: Advance
) -> Findings:
    """Greedy replies of both respondents, whose engines keep pages in the model's numbers and in 8 bits."""
    asks = [_asked(one) for one in questions]
    replies = [await respondent.answers(setup, asks, advance) for respondent in (own, small)]
    right = [[_right(*pair) for pair in zip(questions, of_kind, strict=True)] for of_kind in replies]
    pairs = list(zip(*replies, strict=True))
    findings = Findings(f"page bits: {dataset}, {len(questions)} questions, {DISTRACTORS} distractors")
    findings.figures = {
        "right, the model's numbers": bootstrap(right[0]),
        "right, 8 bits": bootstrap(right[1]),
        "8 bits - the model's numbers": paired_difference(right[1], right[0]),
        "p that both are right as often (McNemar)": mcnemar(right[0], right[1]),
        "same reply": bootstrap([one.text == other.text for one, other in pairs]),
        "median |Δ log probability| of the first token": median(_difference(*pair) for pair in pairs),
    }
    return findings


def _asked(one: Mounted) -> Ask:
    ask = mounted(one)
    return Ask(ask.question, ask.facts, logprobs=1)


def _right(one: Mounted, reply: Reply) -> bool:
    return contains(reply.text, one.question.answers, one.question.numeric)


def _difference(one: Reply, other: Reply) -> float:
    """Of what the first says first."""
    said = one.logprobs[0]
    known = {other.logprobs[0].token_id: other.logprobs[0].logprob, **dict(other.logprobs[0].top)}
    return abs(said.logprob - known[said.token_id]) if said.token_id in known else float("inf")
