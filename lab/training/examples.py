"""What a training step sees: questions with facts mounted as retrieval would, and the reply to be learned.

The reply is the data set's. Where a set has none ("explain", "summarise"), it is the frozen model's own with the right
facts alone, to be followed token by token: there φ is to learn where to look, and not how to talk.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
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
    """

    facts: tuple[str, ...]
    fits: tuple[Fit, ...]
    prompt: list[int]
    reply: list[int]
    weights: list[float]
    teacher: tuple[str, ...] | None = None

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
    ) -> None:
        """`taught`: replies of the frozen model, to be followed."""
        self._sources = sources
        self._taught = taught or {}
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
        return self._example(mounted_at_random(source.distractors, rng.choice(source.pool.questions), rng))

    def _example(self, mounted: Mounted) -> Example:
        question = mounted.question
        turns = [ChatMessage("user", question.text)]
        taught = self._taught.get(question)
        reply = self._prompt.tokenizer.encode(question.reply if taught is None else taught)
        follows = question.facts if taught is not None else None
        return Example(
            facts=mounted.facts,
            fits=mounted.fits,
            prompt=self._prompt.chat(turns, with_knowledge=True),
            reply=[*reply, self._end_token],
            weights=[*self._weights_of(reply, question), ASIDE],
            teacher=follows if mounted.gold else (),
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


def answer_spans(reply: bytes, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Where the reply spells every part of an answer, the first answer of which that is so."""
    for answer in answers:
        parts = [part.encode("utf-8") for part in parts_of(answer)]
        starts = [reply.find(part) for part in parts]
        if min(starts) >= 0:
            return [(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
    return []
