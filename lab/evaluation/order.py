"""The mounted facts are a set: in another order nothing changes but rounding."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lab.evaluation.conditions import mounted
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Advance, Ask, Reply, Respondent, Setup
from lab.questions.mounting import Mounted

PERMUTATIONS = 4


async def measure(
    questions: Sequence[Mounted], setup: Setup, respondent: Respondent, seed: int, advance: Advance
) -> Findings:
    """Each question in retrieval order and in `PERMUTATIONS` others, greedily, with log probabilities."""
    rng = random.Random(seed)
    asks = [ask for one in questions for ask in (_asked(one), *(_shuffled(one, rng) for _ in range(PERMUTATIONS)))]
    replies = await respondent.answers(setup, asks, advance)
    largest, same = 0.0, []
    for start in range(0, len(replies), PERMUTATIONS + 1):
        first, *others = replies[start : start + PERMUTATIONS + 1]
        largest = max([largest, *(_difference(first, other) for other in others)])
        same += [first.text == other.text for other in others]
    precision = str(setup.model.dtype).removeprefix("torch.")
    findings = Findings(f"order: {PERMUTATIONS} permutations of {len(questions)} questions' facts, {precision}")
    findings.figures = {"same reply": bootstrap(same), "largest |Δ log probability|": largest}
    return findings


def _asked(one: Mounted) -> Ask:
    ask = mounted(one)
    return Ask(ask.question, ask.facts, logprobs=0)


def _shuffled(one: Mounted, rng: random.Random) -> Ask:
    ask = _asked(one)
    return Ask(ask.question, tuple(rng.sample(ask.facts, len(ask.facts))), logprobs=0)


def _difference(one: Reply, other: Reply) -> float:
    """Over the tokens that both have said in the same context."""
    largest = 0.0
    for a, b in zip(one.logprobs, other.logprobs, strict=False):
        if a.token_id != b.token_id:
            break
        largest = max(largest, abs(a.logprob - b.logprob))
    return largest
