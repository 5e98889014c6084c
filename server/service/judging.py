"""Is a reply grounded? Judged at its end, from what was found, what was attended to, and what was said."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from kan.knowledge.evidence import Evidence
from kan.knowledge.grounding import NOTHING_MOUNTED, Grounding, Judgement
from server.engine.protocol import TokenChunk
from server.service.agreement import MAX_CHARACTERS, MountedWords
from server.service.prompts import Prompt

Numbered: TypeAlias = tuple[int, TokenChunk]
"""(choice, chunk)"""


@dataclass(slots=True)
class _Reply:
    """What has come of a choice."""

    text: str = ""
    """No more of it than is read."""
    logprobs: list[float] = field(default_factory=list)

    def add(self, chunk: TokenChunk) -> None:
        self.logprobs += (token.logprob for token in chunk.logprobs or ())
        if len(self.text) < MAX_CHARACTERS:
            self.text += chunk.text


class Judging:
    """The choices of one request, numbered prompt by prompt. Log probabilities must be asked of the engine."""

    def __init__(self, grounding: Grounding, prompts: Sequence[Prompt], choices: int) -> None:
        """`choices`: per prompt."""
        self._grounding = grounding
        self._prompts = prompts
        self._choices = choices
        self._words: dict[int, MountedWords] = {}
        self._judged: dict[int, Judgement] = {}

    async def heard(self, chunks: AsyncGenerator[Numbered, None], *, told: bool) -> AsyncGenerator[Numbered, None]:
        """The chunks as they are, but for log probabilities unless the client is `told` them."""
        replies: dict[int, _Reply] = {}
        async with aclosing(chunks):
            async for number, chunk in chunks:
                reply = replies.setdefault(number, _Reply())
                reply.add(chunk)
                if chunk.finish_reason is not None:
                    self._judged[number] = self._judge(number // self._choices, reply, chunk.attention)
                    del replies[number]
                yield number, chunk if told or chunk.logprobs is None else replace(chunk, logprobs=None)

    def of_choice(self, number: int) -> Judgement:
        """Of one that has ended."""
        return self._judged[number]

    def of_prompt(self, place: int) -> Judgement | None:
        """The mean over its choices that have ended; None for none."""
        numbers = range(place * self._choices, (place + 1) * self._choices)
        judged = [self._judged[number] for number in numbers if number in self._judged]
        return Judgement.mean(judged) if judged else None

    def _judge(self, place: int, reply: _Reply, attention: tuple[float, ...] | None) -> Judgement:
        retrieved = self._prompts[place].retrieved
        if retrieved is None or not retrieved.hits:
            return NOTHING_MOUNTED
        if place not in self._words:
            self._words[place] = MountedWords(retrieved.question, [hit.fact.text for hit in retrieved.hits])
        return self._grounding(
            Evidence(
                relevances=tuple(hit.score for hit in retrieved.hits),
                lexical=tuple(hit.lexical for hit in retrieved.hits),
                others=retrieved.others,
                attention=attention,
                logprobs=tuple(reply.logprobs),
                agreement=self._words[place].agreement(reply.text),
            )
        )
