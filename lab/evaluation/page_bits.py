"""What few bits in facts' pages cost: the same questions with the same facts, pages in the model's own numbers, in 8
bits and in 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from kan.quantization import Bits
from lab.evaluation.conditions import mounted
from lab.evaluation.measures import contains
from lab.evaluation.report import Figure, Findings
from lab.evaluation.statistics import bootstrap, mcnemar, paired_difference
from lab.evaluation.subject import Advance, Ask, Reply, Respondent, Setup
from lab.questions.mounting import Mounted

DISTRACTORS = 7


async def measure(
    dataset: str,
    questions: Sequence[Mounted],
    setup: Setup,
    own: Respondent,
    small: Mapping[Bits, Respondent],
    advance: Advance,
) -> Findings:
    """Greedy replies of respondents whose engines keep pages in the model's numbers, and in so few bits."""
    asks = [_asked(one) for one in questions]
    expected = await own.answers(setup, asks, advance)
    right = _right(questions, expected)
    findings = Findings(f"page bits: {dataset}, {len(questions)} questions, {DISTRACTORS} distractors")
    findings.figures = {"right, the model's numbers": bootstrap(right)}
    for bits, respondent in small.items():
        replies = await respondent.answers(setup, asks, advance)
        own_and_small = list(zip(expected, replies, strict=True))
        findings.figures |= _figures(f"{bits} bits", own_and_small, right, _right(questions, replies))
    return findings


def _figures(
    name: str, pairs: Sequence[tuple[Reply, Reply]], own: Sequence[bool], small: Sequence[bool]
) -> dict[str, Figure]:
    return {
        f"right, {name}": bootstrap(small),
        f"{name} - the model's numbers": paired_difference(small, own),
        f"{name}: p that both are right as often (McNemar)": mcnemar(own, small),
        f"{name}: same reply": bootstrap([one.text == other.text for one, other in pairs]),
        f"{name}: median |Δ log probability| of the first token": median(_difference(*pair) for pair in pairs),
    }


def _asked(one: Mounted) -> Ask:
    ask = mounted(one)
    return Ask(ask.question, ask.facts, logprobs=1)


def _right(questions: Sequence[Mounted], replies: Sequence[Reply]) -> list[bool]:
    each = zip(questions, replies, strict=True)
    return [contains(reply.text, one.question.answers, one.question.numeric) for one, reply in each]


def _difference(one: Reply, other: Reply) -> float:
    """Of what the first says first."""
    said = one.logprobs[0]
    known = {other.logprobs[0].token_id: other.logprobs[0].logprob, **dict(other.logprobs[0].top)}
    return abs(said.logprob - known[said.token_id]) if said.token_id in known else float("inf")
