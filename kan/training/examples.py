"""What a training step sees: questions with facts mounted as retrieval would, and the reply to be learned."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from kan.fit import Fit
from kan.prompt import ChatMessage, PromptBuilder
from kan.questions.mounting import Distractors, Mounted
from kan.questions.question import Pool

MAX_MOUNTED = 16
ABSENT = 0.1
"""Share of questions whose gold fact is not mounted."""
SAME_RELATION = 0.5
"""Share of questions whose distractors state the same relation of other subjects."""


@dataclass(frozen=True, slots=True)
class Example:
    """prompt and reply as tokens; `answerable`: a gold fact is mounted, so the reply can be learned from it."""

    facts: tuple[str, ...]
    fits: tuple[Fit, ...]
    prompt: list[int]
    reply: list[int]
    answerable: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A set of questions, its distractors, and how often it is drawn."""

    pool: Pool
    distractors: Distractors
    weight: float


class Sampler:
    """Draws examples. The batch of a step depends on seed and step alone, so a resumed run sees what it would have."""

    def __init__(self, sources: Sequence[Source], prompt: PromptBuilder, end_token: int, *, seed: int) -> None:
        self._sources = sources
        self._weights = [source.weight for source in sources]
        self._prompt = prompt
        self._end_token = end_token
        self._seed = seed

    def batch(self, step: int, size: int) -> list[Example]:
        """`size` examples of one step, or of a fixed sample if the step is negative."""
        rng = random.Random(f"{self._seed}:{step}")
        return [self._draw(rng) for _ in range(size)]

    def _draw(self, rng: random.Random) -> Example:
        source = rng.choices(self._sources, self._weights)[0]
        question = rng.choice(source.pool.questions)
        # Log-uniform: small and large numbers of facts are equally well known.
        mounted = round(math.exp(rng.uniform(0.0, math.log(MAX_MOUNTED))))
        answerable = rng.random() >= ABSENT
        distractors = max(mounted - len(question.facts), 0 if answerable else 1)
        return self._example(
            source.distractors.mount(
                question,
                distractors,
                with_gold=answerable,
                same_relation=rng.random() < SAME_RELATION,
                rng=rng,
            )
        )

    def _example(self, mounted: Mounted) -> Example:
        question = mounted.question
        turns = [ChatMessage("user", question.text)]
        return Example(
            facts=mounted.facts,
            fits=mounted.fits,
            prompt=self._prompt.chat(turns, with_knowledge=True),
            reply=[*self._prompt.tokenizer.encode(question.reply), self._end_token],
            answerable=bool(mounted.gold),
        )
