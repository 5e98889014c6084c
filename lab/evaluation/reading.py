"""How far mounting moves the model from its own reading of a passage: long replies, token by token.

The reply is what the frozen model says with the gold passage alone, as `lab.training.teacher` has it. Given the same
words so far, KL(frozen model with gold alone ‖ model under test with what is mounted) of every next token says how
differently the two would go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kan.knowledge.phi import Phi
from kan.prompt import ChatMessage, PromptBuilder
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap, paired_difference
from lab.evaluation.subject import Advance, Subject
from lab.questions.mounting import Mounted
from lab.questions.question import Question
from lab.training.differentiable import frozen_model
from lab.training.examples import Example
from lab.training.fact_bank import FactBank
from lab.training.objective import Objective
from lab.training.teacher import own_replies

DISTRACTORS = (0, 7)
CONDITIONS = ("zero", "gap", "splines", "learned")
"""Of `lab.evaluation.conditions`."""
LEAST_TOKENS = 48
"""Shorter replies are not what is measured."""
BATCH = 8
"""Examples computed together."""


async def measure(
    subject: Subject,
    mounted: Mapping[int, Sequence[Mounted]],
    phis: Mapping[str, Phi | None],
    directory: Path,
    advance: Advance,
) -> list[Findings]:
    """Mean nats per reply token with each φ, over the questions whose reply is long, for each number of distractors;
    and those of the φ under test less every other's. `directory` keeps the replies."""
    questions = [one.question for one in next(iter(mounted.values()))]
    replies = await own_replies(subject, questions, directory / "replies.json", advance)
    model = frozen_model(subject.model.config, subject.checkpoint.tensors(), subject.model.dtype)
    bank = FactBank(model, subject.prompt)
    objective = Objective(model, bank)
    findings = []
    for count, some in mounted.items():
        examples = [one for one in (_example(each, replies, subject.prompt) for each in some) if one is not None]
        bank.add({text for one in examples for text in (*one.facts, *(one.teacher or ()))})
        found = {name: _divergences(objective, examples, phi, advance) for name, phi in phis.items()}
        one = Findings(f"reading, {count} distractors: nats per token from the reply to gold alone")
        one.figures |= {name: bootstrap(values) for name, values in found.items()}
        others = [name for name in found if name != "learned"]
        one.figures |= {f"learned - {name}": paired_difference(found["learned"], found[name]) for name in others}
        findings.append(one)
    return findings


def _example(mounted: Mounted, replies: Mapping[Question, str], prompt: PromptBuilder) -> Example | None:
    tokens = prompt.tokenizer.encode(replies.get(mounted.question, ""))
    if len(tokens) < LEAST_TOKENS:
        return None
    asked = prompt.chat([ChatMessage("user", mounted.question.text)], with_knowledge=True)
    weights = [1.0] * len(tokens)
    return Example(mounted.facts, mounted.fits, asked, tokens, weights, mounted.question.facts)


def _divergences(objective: Objective, examples: Sequence[Example], phi: Phi | None, advance: Advance) -> list[float]:
    found: list[float] = []
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        found += objective.divergences(some, phi)
        advance(len(some))
    return found
