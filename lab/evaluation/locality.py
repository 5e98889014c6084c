"""Unrelated questions with a knowledge base on and off: the replies and the next token's distribution should stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap, kl_divergence
from lab.evaluation.subject import Advance, Ask, Reply, Respondent, Setup
from lab.questions.rows import read_rows

QUESTIONS = {"webquestions_train": "qText", "squad_train_subset": "question"}
"""File -> its field that holds a question."""


def unrelated_questions(data: Path, count: int) -> list[str]:
    """`count` questions, evenly from every file and evenly over each."""
    found: list[str] = []
    each = -(-count // len(QUESTIONS))
    for name, field in QUESTIONS.items():
        texts = list(dict.fromkeys(row[field].strip() for row in read_rows(data / f"{name}.jsonl.gz", [field])))
        found += texts[:: max(1, len(texts) // each)][:each]
    return found[:count]


async def measure(
    base: KnowledgeBase, questions: Sequence[str], setup: Setup, respondent: Respondent, advance: Advance
) -> Findings:
    """`base` holds facts that answer none of the questions. Where nothing is mounted nothing can differ."""
    on = [base.ask(question) for question in questions]
    mounting = [ask for ask in on if ask.facts]
    advance(2 * (len(on) - len(mounting)))
    off = [Ask(ask.question) for ask in mounting]
    same = [True] * (len(on) - len(mounting))
    divergences = [0.0] * len(same)
    findings = Findings("locality: unrelated questions, knowledge on against off")
    if mounting:
        with_base = await respondent.answers(setup, mounting, advance)
        without = await respondent.answers(setup, off, advance)
        same += [a.text == b.text for a, b in zip(with_base, without, strict=True)]
        divergences += await _divergences(mounting, off, setup, respondent)
        findings.examples += [
            {"question": ask.question, "on": a.text, "off": b.text, "best fact": ask.facts[0].text}
            for ask, a, b in list(zip(mounting, with_base, without, strict=True))[:10]
        ]
        findings.figures["KL (nats) where something was mounted: median"] = float(
            np.median(divergences[len(on) - len(mounting) :])
        )
    findings.figures |= {
        "nothing mounted": bootstrap([not ask.facts for ask in on]),
        "same reply": bootstrap(same),
        "KL (nats) of the first token: median": float(np.median(divergences)),
        "KL (nats) of the first token: p90": float(np.quantile(divergences, 0.9)),
    }
    return findings


async def _divergences(on: Sequence[Ask], off: Sequence[Ask], setup: Setup, respondent: Respondent) -> list[float]:
    """KL(off ‖ on) of each question's first token over the whole vocabulary."""
    whole = respondent.subject.model.config.vocab_size
    asks = [
        Ask(one.question, one.facts, logprobs=whole, past_end=True)
        for pair in zip(off, on, strict=True)
        for one in pair
    ]
    found = [_distribution(reply, whole) for reply in await respondent.answers(setup, asks, max_tokens=1)]
    return [max(0.0, kl_divergence(p, q)) for p, q in zip(found[::2], found[1::2], strict=True)]


def _distribution(reply: Reply, size: int) -> npt.NDArray[np.float64]:
    logprobs = np.full(size, -np.inf)
    for token, logprob in reply.logprobs[0].top:
        logprobs[token] = logprob
    return logprobs
