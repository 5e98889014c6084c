"""One HTTP request for tokens, from admission to the last chunk of its last choice.

It knows prompts, knowledge and the engine, not how answers are written. Whatever ends the request early (the client
leaving, a deadline, an error) leaves by the one context manager here, which gives everything back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from kan.knowledge.grounding import Grounding
from server.engine.protocol import Engine, EngineInfo, GenerationRequest, SamplingParams, TokenChunk
from server.http.errors import invalid, timed_out
from server.http.limits import Gate
from server.http.schemas.knowledge import KnowledgeFact, KnowledgeReport, KnowledgeRequest
from server.metrics import Metrics
from server.service.knowledge import KnowledgeService
from server.service.merge import merge
from server.service.prompts import Preparer, Prompt, Source
from server.service.require_grounded import nothing_mounted, require_grounded
from server.settings import Settings

Stage = Literal["retrieval", "queue", "decode"]
"""Where a request is: looking up facts, waiting for its first token, or receiving tokens."""
Stream: TypeAlias = AsyncIterator[TokenChunk]


@dataclass(frozen=True, slots=True)
class Job:
    """What the client asked for."""

    request_id: str
    endpoint: str
    started: float
    """On time.monotonic()'s clock."""
    sources: tuple[Source, ...]
    choices: int
    """Per source."""
    knowledge: KnowledgeRequest
    sampling: Callable[[int], SamplingParams]
    """Engine parameters, given the room there is for the answer."""


@dataclass(slots=True)
class Run:
    """An admitted job. Choices are numbered prompt by prompt."""

    prompts: tuple[Prompt, ...]
    choices: int
    """Per prompt."""
    grounding: Grounding | None
    chunks: AsyncIterator[tuple[int, TokenChunk]] = field(init=False)
    """(choice, chunk)"""
    stage: Stage = "retrieval"
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

    def report(self, place: int) -> KnowledgeReport | None:
        """Knowledge of one prompt; attention is the mean over its finished choices."""
        prompt = self.prompts[place]
        if prompt.retrieved is None:
            return None
        numbers = range(place * self.choices, (place + 1) * self.choices)
        shares = [self.attention[number] for number in numbers if number in self.attention]
        attention = _mean(shares)
        facts: list[KnowledgeFact] = [
            {
                "id": hit.fact.id,
                "version": hit.fact.version,
                "score": round(hit.score, 6),
                "attention": round(attention[rank], 6) if attention else None,
                "page": mounted.fact.key,
            }
            for rank, (hit, mounted) in enumerate(zip(prompt.retrieved.hits, prompt.facts, strict=True))
        ]
        grounded = self.grounded(place, shares)
        return {
            "version": prompt.retrieved.version,
            "retrieval_ms": round(prompt.retrieved.seconds * 1000, 3),
            "grounded": None if grounded is None else round(grounded, 4),
            "facts": facts,
        }

    def grounded(self, place: int, shares: Sequence[tuple[float, ...]]) -> float | None:
        """How likely a mounted fact answers this prompt, in [0, 1]; `shares`: attention of its finished choices, empty
        where the engine does not tell it.

        None where it cannot be told: no calibration for this model.
        """
        if self.grounding is None:
            return None
        return self.grounding([fact.score for fact in self.prompts[place].facts], _mean(shares) or None)


class Completions:
    """Admits jobs and runs them."""

    def __init__(
        self,
        engine: Engine,
        knowledge: KnowledgeService,
        preparer: Preparer,
        metrics: Metrics,
        settings: Settings,
        grounding: Grounding | None = None,
    ) -> None:
        self._engine = engine
        self._grounding = grounding
        self._knowledge = knowledge
        self._preparer = preparer
        self._metrics = metrics
        self._settings = settings
        # The one bound on answers in progress: in retrieval, in the queue of the engine, and being decoded.
        self._gate = Gate(settings.max_waiting + settings.max_running, "requests")

    @property
    def in_progress(self) -> int:
        """Jobs that have been admitted and are not finished."""
        return self._gate.held

    @asynccontextmanager
    async def run(self, job: Job) -> AsyncGenerator[Run, None]:
        """Find the facts, submit every choice, and hand out their chunks.

        Raises ApiError and EngineError; so does iterating `Run.chunks`. On exit nothing is left in the engine.
        """
        limit = self._settings.max_choices
        if len(job.sources) * job.choices > limit:
            raise invalid(f"n: at most {limit} answers per request on this server", "n", "invalid_value")
        strict = bool(job.knowledge.require_grounded)
        if strict and self._grounding is None:
            message = "knowledge.require_grounded: this server has no calibration for its model and φ"
            raise invalid(message, "knowledge.require_grounded", "unsupported_value")
        run = Run((), job.choices, self._grounding)
        streams: list[Stream] = []
        deadline = job.started + self._settings.request_timeout_s
        try:
            with self._gate.enter(len(job.sources) * job.choices):
                try:
                    run.prompts = await self._prompts(job, deadline)
                    run.stage = "queue"
                    for request in self._requests(job, run.prompts, deadline):
                        # One by one: should one be refused, those before it are closed below.
                        hopeless = strict and not request.facts
                        streams.append(nothing_mounted() if hopeless else self._generate(request))
                    chunks = merge(streams)
                    run.chunks = self._observed(job, run, self._grounded(run, chunks) if strict else chunks)
                    yield run
                finally:
                    await asyncio.shield(self._finish(run, streams))
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.cancellations.labels(run.stage).inc()
            raise

    def _grounded(
        self, run: Run, chunks: AsyncGenerator[tuple[int, TokenChunk], None]
    ) -> AsyncGenerator[tuple[int, TokenChunk], None]:
        threshold = self._settings.grounded_threshold
        return require_grounded(
            chunks, run.choices, lambda prompt, shares: run.grounded(prompt, shares) or 0.0, threshold
        )

    async def _prompts(self, job: Job, deadline: float) -> tuple[Prompt, ...]:
        wanted = job.knowledge
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                if wanted.min_version is not None and wanted.enabled is not False:
                    await self._knowledge.wait_for_version(wanted.min_version, self._settings.min_version_wait_s)
                questions = 0 if wanted.enabled is False else len(job.sources)
                return await self._knowledge.embed(
                    questions, lambda: tuple(self._preparer.prepare(source, wanted) for source in job.sources)
                )
        except TimeoutError:
            raise timed_out("The request's deadline passed while its knowledge was looked up.") from None

    def _requests(self, job: Job, prompts: Sequence[Prompt], deadline: float) -> list[GenerationRequest]:
        info = self._engine.info
        requests: list[GenerationRequest] = []
        for prompt in prompts:
            room = self._preparer.room(info, prompt)
            sampling = job.sampling(room)
            self._preparer.check_fits(info, prompt, room, sampling.max_tokens)
            _check_scored(sampling, prompt, info)
            _check_bias(sampling, info.vocab_size)
            requests += [
                GenerationRequest(
                    id=f"{job.request_id}-{len(requests) + choice}",
                    prompt=prompt.tokens,
                    facts=prompt.facts,
                    sampling=_of_choice(sampling, choice),
                    deadline=deadline,
                )
                for choice in range(job.choices)
            ]
        return requests

    def _generate(self, request: GenerationRequest) -> Stream:
        try:
            return self._engine.generate(request)
        except ValueError as error:  # a parameter that only the engine can judge
            raise invalid(str(error), str(error).partition(":")[0], "invalid_value") from error

    async def _observed(
        self, job: Job, run: Run, chunks: AsyncGenerator[tuple[int, TokenChunk], None]
    ) -> AsyncGenerator[tuple[int, TokenChunk], None]:
        """The chunks, timed and counted on their way."""
        last: dict[int, float] = {}
        try:
            async for choice, chunk in chunks:
                now = time.monotonic()
                if not last:
                    self._metrics.first_token_seconds.labels(job.endpoint).observe(now - job.started)
                if choice in last:
                    self._metrics.inter_token_seconds.observe(now - last[choice])
                elif chunk.queue_seconds is not None:
                    self._metrics.queue_seconds.observe(chunk.queue_seconds)
                last[choice] = now
                _count(run, choice, chunk)
                yield choice, chunk
            self._metrics.end_to_end_seconds.labels(job.endpoint).observe(time.monotonic() - job.started)
        finally:
            await chunks.aclose()

    async def _finish(self, run: Run, streams: Sequence[Stream]) -> None:
        """Give back what the engine holds, and let go of facts that were deleted meanwhile."""
        if hasattr(run, "chunks"):
            await _close(run.chunks)
        for stream in streams:
            await _close(stream)
        for prompt in run.prompts:
            self._metrics.facts_mounted.inc(len(prompt.facts))
            if prompt.facts and prompt.retrieved:
                await self._knowledge.release(prompt.retrieved)


def _count(run: Run, choice: int, chunk: TokenChunk) -> None:
    run.stage = "decode"
    run.completion_tokens += len(chunk.token_ids)
    if chunk.finish_reason is not None:
        run.finished += 1
        if chunk.attention is not None:
            run.attention[choice] = chunk.attention


def _mean(shares: Sequence[tuple[float, ...]]) -> list[float]:
    """Of each fact, over choices; empty for none."""
    return [sum(of_fact) / len(shares) for of_fact in zip(*shares, strict=True)]


def _of_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Choices of one seed differ from each other and are reproducible."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + choice)


def _check_bias(sampling: SamplingParams, vocab_size: int) -> None:
    for token in sampling.logit_bias:
        if token >= vocab_size:
            raise invalid(f"logit_bias: there is no token {token}", f"logit_bias[{token}]", "invalid_value")


def _check_scored(sampling: SamplingParams, prompt: Prompt, info: EngineInfo) -> None:
    if sampling.prompt_logprobs is not None and prompt.facts and not info.prompt_logprobs_with_facts:
        message = (
            "echo: this server's engine cannot tell log probabilities of the prompt while facts are mounted; "
            "leave out logprobs or set knowledge.enabled to false"
        )
        raise invalid(message, "echo", "unsupported_value")


async def _close(iterator: AsyncIterator[object]) -> None:
    """Closing is how the engine is told to stop; the protocol's iterators are generators in all but name."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
