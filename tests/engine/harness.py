"""What the engine's tests share: a tiny model, running engines, whole answers, and the page audit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.fit import Fit
from kan.knowledge.phi import Phi
from kan.prompt import PromptBuilder
from kan.shipped import shipped_model
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.paged.options import EngineOptions
from server.engine.protocol import (
    EngineStats,
    FactTokens,
    FinishReason,
    GenerationRequest,
    MountedFact,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
)
from tests.tiny import tiny_checkpoint

FACTS = (
    "Line 4 ends at Harbour Gate.",
    "A day ticket costs 6 crowns.",
    "Mara Lindqvist runs the depot.",
    "Trams stop at one in the night.",
    "Dogs ride for nothing.",
    "The ferry is closed on Mondays in winter.",
)
EOS = 2
EVERY_MODEL = pytest.mark.parametrize("world", ["tiny", "kan-scan"], indirect=True)
"""For what any model keeps to: ordinary layers, and those of a group that exchanges words."""
_numbers = itertools.count()


@dataclass(frozen=True)
class World:
    """A tiny model on disk, and how to speak to it."""

    checkpoint: Checkpoint
    prompt: PromptBuilder

    @classmethod
    def create(cls, directory: Path) -> World:
        return cls.of(tiny_checkpoint(directory))

    @classmethod
    def shipped(cls, name: str) -> World:
        """A model that comes with the package."""
        directory = shipped_model(name)
        assert directory is not None
        return cls.of(Checkpoint.open(directory))

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> World:
        return cls(checkpoint, PromptBuilder.from_checkpoint(checkpoint))

    @property
    def room(self) -> int:
        """Tokens of its context window."""
        return self.checkpoint.config.max_position_embeddings

    def fact(self, text: str) -> FactTokens:
        return FactTokens(self.prompt.fact_key(self.checkpoint.fingerprint, text), self.prompt.fact(text))

    def mounted(self, *texts: str) -> tuple[MountedFact, ...]:
        """Facts with scores that follow from their text alone."""
        return tuple(MountedFact(self.fact(text), Fit((len(text) % 7) / 10)) for text in texts)

    def request(self, prompt: str | Sequence[int], *facts: str, **changed: Any) -> GenerationRequest:
        """Greedy, to the full `max_tokens`, unless told otherwise."""
        deadline = changed.pop("deadline", None)
        sampling = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, **changed}
        ids = self.prompt.completion(prompt, with_knowledge=bool(facts))
        name = f"test-{next(_numbers)}"
        return GenerationRequest(name, tuple(ids), self.mounted(*facts), SamplingParams(**sampling), deadline=deadline)

    def start(self, *, pages: int = 512, phi: Phi | None = None, **options: Any) -> EmbeddedEngine:
        """A running engine, in float64: so exact that batching can change no token."""
        chosen = EngineOptions(**{"dtype": "float64", "pages": pages, "max_fact_tokens": 48, **options})
        return EmbeddedEngine.start(self.checkpoint, self.prompt, chosen, phi)

    @asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[EmbeddedEngine]:
        """The same, audited and closed at the end."""
        engine = self.start(**options)
        try:
            yield engine
            if engine.healthy():
                await settled(engine)
        finally:
            await engine.aclose()


@dataclass(frozen=True)
class Answer:
    """All chunks of one request, added up."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None
    attention: tuple[float, ...] | None


async def answer(
    engine: EmbeddedEngine, request: GenerationRequest, on_chunk: Callable[[], None] | None = None
) -> Answer:
    """Run a request to its end, checking on the way what must hold for any stream."""
    chunks: list[TokenChunk] = []
    async with aclosing(stream(engine, request)) as source:
        async for chunk in source:
            assert not chunks or chunks[-1].finish_reason is None, "something came after the last chunk"
            assert chunk.prompt_logprobs is None or not chunks, "prompt logprobs belong on the first chunk"
            chunks.append(chunk)
            if on_chunk is not None:
                on_chunk()
    return added_up(chunks)


def added_up(chunks: Sequence[TokenChunk]) -> Answer:
    reason = chunks[-1].finish_reason
    assert reason is not None, "the stream ended without a finish reason"
    assert chunks[0].queue_seconds is not None
    return Answer(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(itertools.chain.from_iterable(chunk.token_ids for chunk in chunks)),
        finish_reason=reason,
        logprobs=tuple(itertools.chain.from_iterable(chunk.logprobs or () for chunk in chunks)),
        prompt_logprobs=chunks[0].prompt_logprobs,
        attention=chunks[-1].attention,
    )


def stream(engine: EmbeddedEngine, request: GenerationRequest) -> Any:
    """The engine's iterator, with the `aclose` that the protocol promises and AsyncIterator does not name."""
    return cast(Any, engine.generate(request))


async def answers(engine: EmbeddedEngine, requests: Iterable[GenerationRequest]) -> list[Answer]:
    """All of them at once."""
    return list(await asyncio.gather(*(answer(engine, request) for request in requests)))


async def one_by_one(engine: EmbeddedEngine, requests: Iterable[GenerationRequest]) -> list[Answer]:
    return [await answer(engine, request) for request in requests]


async def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Poll, so that a test waits for a stage instead of guessing how long it takes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"{what} did not happen in {seconds} s"
        await asyncio.sleep(0.001)


async def settled(engine: EmbeddedEngine) -> EngineStats:
    """Wait for idleness, then audit: no context page is left and the totals add up."""

    def quiet() -> bool:
        stats = engine.stats()
        return stats.waiting == stats.running == stats.pages_context == 0

    await until(quiet, "idleness with all context pages returned")
    await engine.audit()
    await asyncio.sleep(0.005)  # replies may run ahead of the published numbers
    stats = engine.stats()
    assert stats.pages_free + stats.pages_context + stats.pages_knowledge == stats.pages_total
    assert engine.healthy()
    return stats


def assert_same(observed: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """Equal tokens and text; attention and log probabilities equal but for rounding."""
    for one, other in zip(observed, expected, strict=True):
        assert one.tokens == other.tokens
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.attention == pytest.approx(other.attention, abs=1e-5)
        assert flat(one.logprobs) == pytest.approx(flat(other.logprobs), abs=1e-5)


def flat(logprobs: Sequence[TokenLogprob | None]) -> list[float]:
    return [x for one in logprobs if one for x in (one.logprob, *(logprob for _, logprob in one.top))]
