"""The model under test, and engines that run it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from kan.checkpoint.directory import Checkpoint
from kan.kernels.choice import choose_kernels
from kan.knowledge.fit import Fit
from kan.knowledge.phi import Phi, zero_phi
from kan.model import KANModel
from kan.prompt import ChatMessage, PromptBuilder
from kb.encoder.protocol import Encoder
from server.engine.dtype import choose_dtype
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.paged.options import DtypeName, EngineOptions, PageBits
from server.engine.protocol import FactTokens, GenerationRequest, MountedFact, SamplingParams, TokenLogprob

RUNNING = 32
"""Requests decoded together."""
PAGES = 6144

Advance = Callable[[int], None]
"""Told how many more requests are done."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with its prompt layout, its encoder and the φ it is served with."""

    checkpoint: Checkpoint
    model: KANModel
    prompt: PromptBuilder
    encoder: Encoder
    learned: Phi
    """The φ under test."""
    phi_name: str
    """Where it came from."""

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, encoder: Encoder, phi: Phi | None, phi_name: str, dtype: DtypeName = "auto"
    ) -> Subject:
        """`phi` None: no bias. Raises CheckpointError or ValueError for a model that cannot be used."""
        config, chosen = checkpoint.config, choose_dtype(dtype)
        kernels = choose_kernels("auto", config, chosen)
        model = KANModel(config, checkpoint.tensors(), dtype=chosen, kernels=kernels)
        learned = phi or zero_phi(config.num_layers, config.num_heads)
        return cls(checkpoint, model, PromptBuilder.from_checkpoint(checkpoint), encoder, learned, phi_name)

    def in_float32(self) -> KANModel:
        """The model without bfloat16's rounding. Loads the weights again."""
        return KANModel(self.checkpoint.config, self.checkpoint.tensors(), dtype=torch.float32)

    def fact(self, text: str) -> FactTokens:
        return FactTokens(self.prompt.fact_key(self.checkpoint.fingerprint, text), self.prompt.fact(text))


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """What an engine is built from. Compared by identity: one setup, one engine."""

    model: KANModel
    phi: Phi | None


class Given(NamedTuple):
    """A fact of a request, with what φ is told of it."""

    text: str
    fit: Fit


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: what is asked, and the facts for it.

    mounted    facts are pages, or else text pasted where the pages would be, in the same order
    logprobs   alternatives to report for every token
    past_end   go on to the full length, whatever the model says
    """

    question: str
    facts: tuple[Given, ...] = ()
    mounted: bool = True
    logprobs: int | None = None
    past_end: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What the engine answered. `attention` is the share of each mounted fact."""

    text: str
    attention: tuple[float, ...]
    logprobs: tuple[TokenLogprob, ...]


@dataclass(slots=True)
class Respondent:
    """Answers greedily, many requests at once, on one engine at a time. Close it with `aclose`.

    page_dir   facts are encoded once, by whichever engine needs them first, and kept here
    """

    subject: Subject
    page_dir: Path
    max_tokens: int = 24
    page_bits: PageBits = 16
    _setup: Setup | None = None
    _engine: EmbeddedEngine | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def answers(
        self, setup: Setup, asks: Sequence[Ask], advance: Advance | None = None, *, max_tokens: int | None = None
    ) -> list[Reply]:
        """The replies, in the order of the asks. Raises RequestTooLarge for one that can never fit."""
        engine = await self._engine_for(setup)
        gate = asyncio.Semaphore(RUNNING)

        async def one(ask: Ask) -> Reply:
            async with gate:
                reply = await self._reply(engine, ask, max_tokens or self.max_tokens)
            if advance is not None:
                advance(1)
            return reply

        return list(await asyncio.gather(*map(one, asks)))

    async def aclose(self) -> None:
        engine, self._engine, self._setup = self._engine, None, None
        if engine is not None:
            await engine.aclose()

    async def _engine_for(self, setup: Setup) -> EmbeddedEngine:
        if self._engine is None or setup is not self._setup:
            await self.aclose()
            options = EngineOptions(
                page_bits=self.page_bits,
                pages=PAGES,
                page_dir=self.page_dir,
                max_running=RUNNING,
                max_fact_tokens=512,
                step_tokens=256,
                busy_step_tokens=128,
                stall_seconds=300.0,
            )
            phi = None if setup.phi is None or setup.phi.is_zero else setup.phi
            fingerprint = self.subject.checkpoint.fingerprint
            self._engine = EmbeddedEngine(setup.model, self.subject.prompt, options, phi, fingerprint)
            self._setup = setup
        return self._engine

    async def _reply(self, engine: EmbeddedEngine, ask: Ask, max_tokens: int) -> Reply:
        text = ""
        logprobs: list[TokenLogprob] = []
        attention: tuple[float, ...] = ()
        async with aclosing(engine.generate(self._request(ask, max_tokens))) as stream:
            async for chunk in stream:
                text += chunk.text
                logprobs += chunk.logprobs or ()
                attention = chunk.attention or ()
        return Reply(text.strip(), attention, tuple(logprobs))

    def _request(self, ask: Ask, max_tokens: int) -> GenerationRequest:
        builder = self.subject.prompt
        tokens = builder.chat([ChatMessage("user", ask.question)], with_knowledge=bool(ask.facts))
        facts = [MountedFact(self.subject.fact(one.text), one.fit) for one in ask.facts]
        if facts and not ask.mounted:
            pasted = [token for one in facts for token in one.fact.tokens]
            tokens, facts = [*builder.preamble, *pasted, *tokens], []
        sampling = SamplingParams(
            max_tokens=max_tokens, temperature=0.0, logprobs=ask.logprobs, ignore_eos=ask.past_end
        )
        return GenerationRequest(f"eval-{next(self._numbers)}", tuple(tokens), tuple(facts), sampling)
