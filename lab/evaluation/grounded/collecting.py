"""Cases as a server meets them: facts found among many, mounted by its own rule, of a third of the questions none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lab.evaluation.grounded.cases import Case, CaseFile, MountedText
from lab.evaluation.knowledge_base import KnowledgeBase, LookUp
from lab.evaluation.measures import contains
from lab.evaluation.subject import Advance, Reply, Respondent, Setup, Subject
from lab.questions.question import Fact, Pool, Question, Split
from server.settings import Settings

GROUP = 30
"""Questions that are asked of one base."""
UNANSWERABLE = 10
"""Of them: what answers them is not in the base."""
SIZES = (30, 300, 1000)
"""Facts of a base, group by group, as far as the set has as many."""
POOL = 1000
"""Questions that a pool is drawn with: it has at least as many facts."""

MAX_TOKENS = 64
"""Of a reply."""
SILENT = Reply("", (), ())

Bases = Callable[[str], AbstractContextManager[KnowledgeBase]]
"""An empty base, by its name."""


def collected_of(subject: Subject, settings: Settings, seed: int) -> dict[str, object]:
    """What cases depend on: those of something else are not to be mixed with them."""
    mounting = ("top_k", "min_score", "min_best_score", "max_gap", "drop_covered")
    return {
        "model_fingerprint": subject.checkpoint.fingerprint,
        "phi_digest": subject.learned.digest,
        "encoder_fingerprint": subject.encoder.fingerprint,
        "max_tokens": MAX_TOKENS,
        "seed": seed,
        **{name: getattr(settings, name) for name in mounting},
    }


@dataclass(frozen=True, slots=True)
class Group:
    """Questions, and the base they are asked of."""

    first: int
    """Number of the first question."""
    questions: tuple[Question, ...]
    facts: tuple[str, ...]

    def answerable(self, question: Question) -> bool:
        return set(question.facts) <= set(self.facts)


def whole_groups(count: int) -> int:
    """At least so many questions."""
    return -(-count // GROUP) * GROUP


def groups(pool: Pool, split: Split, count: int, seed: int) -> Iterator[Group]:
    """The pool's questions in drawn order, up to `count` of them (whole groups)."""
    rng = random.Random(f"grounded {pool.dataset} {split} {seed}")
    drawn = rng.sample(pool.questions, len(pool.questions))
    for place, first in enumerate(range(0, min(count, len(drawn)), GROUP)):
        asked = rng.sample(drawn[first : first + GROUP], len(drawn[first : first + GROUP]))
        facts = _base(asked, pool.facts, SIZES[place % len(SIZES)], rng)
        yield Group(first, tuple(asked), tuple(facts))


def _base(asked: Sequence[Question], facts: Sequence[Fact], size: int, rng: random.Random) -> list[str]:
    absent = {text for question in asked[:UNANSWERABLE] for text in question.facts}
    wanted = dict.fromkeys(text for question in asked for text in question.facts if text not in absent)
    others = [fact.text for fact in facts if fact.text not in absent and fact.text not in wanted]
    return [*wanted, *rng.sample(others, min(len(others), max(0, size - len(wanted))))]


async def collect(
    pool: Pool,
    split: Split,
    count: int,
    seed: int,
    bases: Bases,
    setup: Setup,
    respondent: Respondent,
    file: CaseFile,
    advance: Advance,
) -> None:
    """Add what `file` lacks of the first `count` cases, group by group."""
    for group in groups(pool, split, count, seed):
        keys = [(pool.dataset, split, group.first + place) for place in range(len(group.questions))]
        if not all(key in file for key in keys):
            with bases(f"grounded-{pool.dataset}-{split}-{group.first}") as base:
                base.upsert({str(place): text for place, text in enumerate(group.facts)})
                found = [base.look_up(question.text) for question in group.questions]
            file.add(_cases(group, split, found, await _replies(found, setup, respondent)))
        advance(len(keys))


async def _replies(found: Sequence[LookUp], setup: Setup, respondent: Respondent) -> list[Reply]:
    """Without facts there is nothing that a reply could be grounded in: it is left empty."""
    asks = {place: one.ask(logprobs=0) for place, one in enumerate(found) if one.hits}
    said = dict(zip(asks, await respondent.answers(setup, list(asks.values()), max_tokens=MAX_TOKENS), strict=True))
    return [said.get(place, SILENT) for place in range(len(found))]


def _cases(group: Group, split: Split, found: Sequence[LookUp], replies: Sequence[Reply]) -> Iterator[Case]:
    for place, (question, one, reply) in enumerate(zip(group.questions, found, replies, strict=True)):
        facts = tuple(
            MountedText(hit.fact.text, hit.score, hit.lexical, hit.fact.text in question.facts) for hit in one.hits
        )
        yield Case(
            dataset=question.dataset,
            split=split,
            number=group.first + place,
            question=question.text,
            answerable=group.answerable(question),
            facts_in_base=len(group.facts),
            facts=facts,
            others=one.others,
            fact_mounted=set(question.facts) <= {fact.text for fact in facts},
            reply=reply.text,
            attention=reply.attention,
            logprobs=tuple(token.logprob for token in reply.logprobs),
            right=contains(reply.text, question.answers, question.numeric),
        )
