"""One HTTP request for tokens: what was asked for, how far it got, and what it was answered from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kan.knowledge.grounding import Judgement
from server.engine.protocol import SamplingParams, TokenChunk
from server.service.account import Account
from server.service.citations import CitedFacts
from server.service.judging import Judging
from server.service.options import KnowledgeOptions
from server.service.prompts import Prompt, Source

Stage = Literal["queue", "retrieval", "decode"]
"""Where a request is: waiting (to be admitted, or for its first token), looking up facts, or receiving tokens."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the client asked for."""

    request_id: str
    caller: str
    endpoint: str
    started: float
    """On time.monotonic()'s clock."""
    sources: tuple[Source, ...]
    choices: int
    """Per source."""
    knowledge: KnowledgeOptions
    sampling: Callable[[int], SamplingParams]
    """Engine parameters, given the room there is for the answer."""
    account: Account = field(default_factory=Account)

    @property
    def tells_logprobs(self) -> bool:
        """Whether the client asked for log probabilities."""
        return self.sampling(1).logprobs is not None


@dataclass(frozen=True, slots=True)
class FactReport:
    """A fact that was mounted."""

    id: str
    version: int
    score: float
    """Inner product with the question's vector."""
    lexical: float
    """The share of the question's words that it has, weighed by how much they tell: in [0, 1]."""
    attention: float | None
    """Share of attention, mean over choices; None where the engine does not tell it."""
    page: str
    """Key of its K/V pages."""


@dataclass(frozen=True, slots=True)
class Cited:
    """A stretch of an answer that says what a mounted fact says; in characters."""

    start: int
    end: int
    namespace: str
    fact_id: str

    @property
    def url(self) -> str:
        """Names the fact."""
        return f"kalmagrove:{self.namespace}/{self.fact_id}"


@dataclass(frozen=True, slots=True)
class KnowledgeReport:
    """What the answers to one prompt were drawn from."""

    version: int
    retrieval_seconds: float
    judgement: Judgement | None
    """Mean over choices; None where it cannot be told: no calibration for this model."""
    facts: tuple[FactReport, ...]
    left_out: tuple[tuple[str, int], ...]
    """Id and version of facts that were not mounted because their pages were not there."""


@dataclass(slots=True)
class Run:
    """An admitted job. Choices are numbered prompt by prompt."""

    choices: int
    """Per prompt."""
    prompts: tuple[Prompt, ...] = ()
    cites: bool = True
    """Whether citations are wanted."""
    judging: Judging | None = None
    """None: replies cannot be judged."""
    chunks: AsyncGenerator[tuple[int, TokenChunk], None] = field(init=False)
    """(choice, chunk)"""
    stage: Stage = "queue"
    completion_tokens: int = 0
    """So far, of all choices."""
    attention: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Per finished choice."""
    finished: int = 0
    """Choices."""

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, once each."""
        return sum(len(prompt.tokens) for prompt in self.prompts)

    @property
    def complete(self) -> bool:
        """True once every choice has its last chunk."""
        return self.finished == len(self.prompts) * self.choices

    def count(self, choice: int, chunk: TokenChunk) -> None:
        """A chunk has come."""
        self.stage = "decode"
        self.completion_tokens += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            self.finished += 1
            if chunk.attention is not None:
                self.attention[choice] = chunk.attention

    def citations(self, number: int, text: str) -> list[Cited]:
        """What a choice that has ended took from the facts, if that is wanted; `text` is what it said."""
        prompt = self.prompts[number // self.choices]
        if not self.cites or prompt.retrieved is None or not prompt.retrieved.hits:
            return []
        facts = [hit.fact for hit in prompt.retrieved.hits]
        cited = CitedFacts(prompt.retrieved.question, [fact.text for fact in facts])
        return [
            Cited(one.start, one.end, facts[one.fact].namespace, facts[one.fact].id)
            for one in cited.citations(text, self.attention.get(number))
        ]

    def report(self, place: int) -> KnowledgeReport | None:
        """Knowledge of one prompt; None if it was not wanted."""
        prompt = self.prompts[place]
        if prompt.retrieved is None:
            return None
        numbers = range(place * self.choices, (place + 1) * self.choices)
        shares = [self.attention[number] for number in numbers if number in self.attention]
        retrieved = prompt.retrieved
        judgement = self.judging.of_prompt(place) if self.judging else None
        left_out = tuple((hit.fact.id, hit.fact.version) for hit in retrieved.left_out)
        facts = _facts(prompt, _mean(shares))
        return KnowledgeReport(retrieved.told_version, retrieved.seconds, judgement, facts, left_out)


def _facts(prompt: Prompt, attention: Sequence[float]) -> tuple[FactReport, ...]:
    hits = prompt.retrieved.hits if prompt.retrieved else ()
    return tuple(
        FactReport(
            hit.fact.id,
            hit.fact.version,
            hit.score,
            hit.lexical,
            attention[rank] if attention else None,
            mounted.fact.key,
        )
        for rank, (hit, mounted) in enumerate(zip(hits, prompt.facts, strict=True))
    )


def _mean(shares: Sequence[tuple[float, ...]]) -> list[float]:
    """Of each fact, over choices; empty for none."""
    return [sum(of_fact) / len(shares) for of_fact in zip(*shares, strict=True)]
