"""What a training step sees: questions with facts mounted as retrieval would, and the reply to be learned.

The reply is the data set's. Where a set has none ("explain", "summarise"), it is the frozen model's own with the right
facts alone, to be followed token by token: there φ is to learn where to look, and not how to talk. So it is with a set
that a run follows, whose teacher reads with the φ that the run began with.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kan.knowledge.fit import Fit
from kan.prompt import ChatMessage, PromptBuilder
from lab.questions.mounting import Distractors, Mounted
from lab.questions.question import Pool, Question, parts_of

MAX_MOUNTED = 16
MANY = 0.35
"""Share of questions with MANY_MOUNTED to MAX_MOUNTED facts, as servers mount them (8, unless told otherwise)."""
MANY_MOUNTED = 6
ABSENT = 0.1
"""Share of questions whose gold fact is not mounted."""
SAME_RELATION = 0.5
"""Share of questions whose distractors state the same relation of other subjects."""


SMALL_BASE = 0.2
"""Share of questions asked of a small base, where not even the nearest facts need be near."""
SMALL_BASE_FACTS = 24
ASIDE = 0.3
"""Weight of the reply's tokens that are not of the answer: most are stock phrases."""


@dataclass(frozen=True, slots=True)
class Example:
    """prompt and reply as tokens.

    weights   of the reply's tokens in the loss
    teacher   the facts with which the frozen model, without φ, is to be followed token by token: the gold ones, or none
              where no gold fact is mounted. None: there is only the reply to be learned.
    teacher_fits  of those facts, where the teacher reads with the φ that the run began with; (): it is without φ
    """

    facts: tuple[str, ...]
    fits: tuple[Fit, ...]
    prompt: list[int]
    reply: list[int]
    weights: list[float]
    teacher: tuple[str, ...] | None = None
    teacher_fits: tuple[Fit, ...] = ()

    @property
    def answerable(self) -> bool:
        """A gold fact is mounted."""
        return self.teacher != ()


@dataclass(frozen=True, slots=True)
class Source:
    """A set of questions, its distractors, and how often it is drawn."""

    pool: Pool
    distractors: Distractors
    weight: float


class Sampler:
    """Draws examples. The batch of a step depends on seed and step alone, so a resumed run sees what it would have."""

    def __init__(
        self,
        sources: Sequence[Source],
        prompt: PromptBuilder,
        end_token: int,
        *,
        seed: int,
        taught: Mapping[Question, str] | None = None,
        followed: Collection[str] = (),
    ) -> None:
        """`taught`: replies to be followed: of the frozen model, or, of the sets named by `followed`, of the φ that the
        run began with."""
        self._sources = sources
        self._taught = taught or {}
        self._followed = followed
        self._shares = [source.weight for source in sources]
        self._prompt = prompt
        self._end_token = end_token
        self._seed = seed

    def batch(self, step: int, size: int) -> list[Example]:
        """`size` examples of one step, or of a fixed sample if the step is negative."""
        rng = random.Random(f"{self._seed}:{step}")
        return [self._draw(rng) for _ in range(size)]

    def _draw(self, rng: random.Random) -> Example:
        source = rng.choices(self._sources, self._shares)[0]
        question = rng.choice(source.pool.questions)
        mounted = mounted_at_random(source.distractors, question, rng)
        return self._example(mounted, *self._teacher(source, mounted))

    def _teacher(self, source: Source, mounted: Mounted) -> tuple[tuple[str, ...] | None, tuple[Fit, ...]]:
        """`teacher` and `teacher_fits` of the example."""
        question = mounted.question
        if not mounted.gold:
            return (), ()
        if question not in self._taught:
            return None, ()
        if source.pool.dataset not in self._followed:
            return question.facts, ()
        alone = gold_alone(source.distractors, question)
        return alone.facts, alone.fits

    def _example(self, mounted: Mounted, teacher: tuple[str, ...] | None, teacher_fits: tuple[Fit, ...]) -> Example:
        question = mounted.question
        turns = [ChatMessage("user", question.text)]
        reply = self._prompt.tokenizer.encode(self._taught.get(question, question.reply))
        return Example(
            facts=mounted.facts,
            fits=mounted.fits,
            prompt=self._prompt.chat(turns, with_knowledge=True),
            reply=[*reply, self._end_token],
            weights=[*self._weights_of(reply, question), ASIDE],
            teacher=teacher,
            teacher_fits=teacher_fits,
        )

    def _weights_of(self, reply: list[int], question: Question) -> list[float]:
        """1 for the tokens that spell the answer (all, if the reply does not spell it), ASIDE for others."""
        spelled = [self._prompt.tokenizer.token_bytes(token) for token in reply]
        spans = answer_spans(b"".join(spelled), question.answers)
        if not spans:
            return [1.0] * len(reply)
        ends = list(itertools.accumulate(map(len, spelled)))
        starts = [0, *ends[:-1]]
        inside = (any(a < end and start < b for a, b in spans) for start, end in zip(starts, ends, strict=True))
        return [1.0 if one else ASIDE for one in inside]


def mounted_at_random(distractors: Distractors, question: Question, rng: random.Random) -> Mounted:
    """The question with as many facts, of such kinds, as training sees."""
    if rng.random() < MANY:
        mounted = rng.randint(MANY_MOUNTED, MAX_MOUNTED)
    else:  # log-uniform: few facts are known as well as many
        mounted = round(math.exp(rng.uniform(0.0, math.log(MAX_MOUNTED))))
    answerable = rng.random() >= ABSENT
    return distractors.mount(
        question,
        max(mounted - len(question.facts), 0 if answerable else 1),
        with_gold=answerable,
        same_relation=rng.random() < SAME_RELATION,
        base=SMALL_BASE_FACTS if rng.random() < SMALL_BASE else None,
        rng=rng,
    )


def gold_alone(distractors: Distractors, question: Question) -> Mounted:
    """The question with the facts that answer it and no others."""
    return distractors.mount(question, 0, rng=random.Random(0))


def answer_spans(reply: bytes, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Where the reply spells every part of an answer, the first answer of which that is so."""
    for answer in answers:
        parts = [part.encode("utf-8") for part in parts_of(answer)]
        starts = [reply.find(part) for part in parts]
        if min(starts) >= 0:
            return [(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
    return []
