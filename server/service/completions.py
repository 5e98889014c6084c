"""One HTTP request for tokens, from admission to the last chunk of its last choice.

It knows prompts, knowledge and the engine, not how answers are written. Each choice is admitted by itself, the request
with the first of them: facts are looked up then, and the other choices want no slot before that is done. Questions that
take long to embed are embedded before the request has any. Whatever ends the request early (the client leaving, a
deadline, an error) leaves by the one context manager here, which gives everything back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TypeAlias

from kan.knowledge.grounding import Grounding
from server.engine.protocol import Engine, EngineInfo, GenerationRequest, SamplingParams, TokenChunk
from server.metrics import Metrics
from server.service.admission import Admission, Key, Place
from server.service.choices import Choices
from server.service.deadline import cut_at, in_time
from server.service.errors import InvalidRequest
from server.service.judging import Judging
from server.service.prompts import Prompt, Prompts
from server.service.require_grounded import require_grounded
from server.service.retrieval import Questions, Retrieval
from server.service.run import Job, Run
from server.service.versions import Versions
from server.settings import Settings

MAX_ANSWERS = 128
"""Of one request: prompts × n."""
Chunks: TypeAlias = AsyncGenerator[tuple[int, TokenChunk], None]


class Completions:
    """Admits jobs and runs them."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        versions: Versions,
        prompts: Prompts,
        retrieval: Retrieval,
        metrics: Metrics,
        settings: Settings,
        grounding: Grounding | None = None,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._versions = versions
        self._prompts = prompts
        self._retrieval = retrieval
        self._metrics = metrics
        self._settings = settings
        self._grounding = grounding

    @asynccontextmanager
    async def run(self, job: Job) -> AsyncGenerator[Run, None]:
        """Find the facts, submit the first choice, and hand out the chunks of all.

        Raises ServiceError and EngineError; so does iterating `Run.chunks`. On exit nothing is left in the engine.
        """
        self._check(job)
        run = Run(job.choices, cites=job.knowledge.citations)
        try:
            await self._wait_for_version(job)
            together = min(len(job.sources) * job.choices, self._settings.max_choices)
            with self._admission.join(Key(job.caller), together, reserved=True) as places:
                choices = None
                try:
                    choices = await self._choices(run, job, places)
                    run.chunks = self._chunks(run, job, choices)
                    yield run
                finally:
                    await asyncio.shield(self._finish(run, job, choices))
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.cancellations.labels(run.stage).inc()
            raise

    def _check(self, job: Job) -> None:
        """Before anything waits."""
        limit = self._settings.max_choices
        if job.choices > limit:
            raise InvalidRequest(f"n: at most {limit} on this server", "n")
        if len(job.sources) * job.choices > MAX_ANSWERS:
            raise InvalidRequest(f"n: at most {MAX_ANSWERS} answers to all prompts together", "n")
        if job.knowledge.require_grounded and self._grounding is None:
            message = "knowledge.require_grounded: this server has no calibration for its model and φ"
            raise InvalidRequest(message, "knowledge.require_grounded", "unsupported_value")
        for source in job.sources:
            self._prompts.require_readable(source)

    async def _wait_for_version(self, job: Job) -> None:
        """Before admission: whoever waits for an edit holds no slot."""
        version = job.knowledge.min_version
        if version is not None and job.knowledge.enabled:
            await self._versions.wait_for(version, self._settings.min_version_wait_s, job.knowledge.access)

    async def _choices(self, run: Run, job: Job, places: Sequence[Place]) -> Choices:
        async with in_time(self._deadline(job)):
            asked = await self._asked_before(run, job)
            self._admission.line_up(places[:1])
            with job.account.during("queue"):
                await places[0].turn()
            with _looking_up(run, job):
                run.prompts = await self._prompts.make(job.caller, job.sources, job.knowledge, asked)
                if self._grounding is not None:
                    run.judging = Judging(self._grounding, run.prompts, run.choices)
            self._admission.line_up(places)
        return Choices(self._engine, self._admission, places, self._requests(job, run.prompts), job.account)

    async def _asked_before(self, run: Run, job: Job) -> Questions | None:
        """What takes long to embed."""
        if not self._prompts.slow_to_ask(job.sources, job.knowledge):
            return None
        with _looking_up(run, job):
            return await self._prompts.ask(job.caller, job.sources, job.knowledge)

    def _chunks(self, run: Run, job: Job, choices: Choices) -> Chunks:
        chunks = choices.start(only_grounded=job.knowledge.require_grounded)
        patience_s = self._settings.send_timeout_s
        chunks = cut_at(chunks, self._deadline(job), len(job.sources) * job.choices, patience_s)
        if run.judging is not None:
            judging = run.judging
            chunks = judging.heard(chunks, told=job.tells_logprobs)
            if job.knowledge.require_grounded:
                threshold = self._settings.grounded_threshold
                chunks = require_grounded(chunks, lambda choice: judging.of_choice(choice).grounded, threshold)
        return self._observed(job, run, chunks)

    def _deadline(self, job: Job) -> float:
        return job.started + self._settings.request_timeout_s

    def _requests(self, job: Job, prompts: Sequence[Prompt]) -> list[GenerationRequest]:
        requests: list[GenerationRequest] = []
        for prompt in prompts:
            sampling = self._sampling(job, prompt)
            requests += [
                GenerationRequest(
                    id=f"{job.request_id}-{len(requests) + choice}",
                    prompt=prompt.tokens,
                    facts=prompt.facts,
                    sampling=_of_choice(sampling, choice),
                    deadline=self._deadline(job),
                )
                for choice in range(job.choices)
            ]
        return requests

    def _sampling(self, job: Job, prompt: Prompt) -> SamplingParams:
        room = self._prompts.room(prompt)
        sampling = job.sampling(room)
        self._prompts.require_room(prompt, room, sampling.max_tokens)
        _check_scored(sampling, prompt, self._engine.info)
        _check_bias(sampling, self._engine.info.vocab_size)
        if prompt.facts and self._grounding is not None and sampling.logprobs is None:
            return replace(sampling, logprobs=0)  # to judge the answer by
        return sampling

    async def _observed(self, job: Job, run: Run, chunks: Chunks) -> Chunks:
        """The chunks, timed and counted on their way."""
        last: dict[int, float] = {}
        between = self._metrics.inter_token_seconds.labels(job.endpoint)
        async with aclosing(chunks):
            async for choice, chunk in chunks:
                now = time.monotonic()
                if not last:
                    job.account.first_token_at = now
                    self._metrics.first_token_seconds.labels(job.endpoint).observe(now - job.started)
                if choice in last:
                    between.observe(now - last[choice])
                elif chunk.queue_seconds is not None:
                    self._metrics.queue_seconds.labels(job.endpoint).observe(chunk.queue_seconds)
                last[choice] = now
                run.count(choice, chunk)
                yield choice, chunk
        self._metrics.end_to_end_seconds.labels(job.endpoint).observe(time.monotonic() - job.started)

    async def _finish(self, run: Run, job: Job, choices: Choices | None) -> None:
        """Give back what the engine holds, and let go of facts that were deleted meanwhile."""
        _account_for(run, job)
        if hasattr(run, "chunks"):
            await run.chunks.aclose()
        if choices is not None:
            await choices.aclose()
        for prompt in run.prompts:
            self._metrics.facts_mounted.inc(len(prompt.facts))
            if prompt.facts and prompt.retrieved:
                self._retrieval.release(prompt.retrieved)


@contextmanager
def _looking_up(run: Run, job: Job) -> Iterator[None]:
    run.stage = "retrieval"
    with job.account.during("retrieval"):
        yield
    run.stage = "queue"


def _account_for(run: Run, job: Job) -> None:
    versions = [prompt.retrieved.version for prompt in run.prompts if prompt.retrieved]
    if versions:
        job.account.knowledge_version = max(versions)
        job.account.facts_mounted = sum(len(prompt.facts) for prompt in run.prompts)


def _of_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Choices of one seed differ from each other and are reproducible."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + choice)


def _check_bias(sampling: SamplingParams, vocab_size: int) -> None:
    for token in sampling.logit_bias:
        if token >= vocab_size:
            raise InvalidRequest(f"logit_bias: there is no token {token}", f"logit_bias[{token}]")


def _check_scored(sampling: SamplingParams, prompt: Prompt, info: EngineInfo) -> None:
    if sampling.prompt_logprobs is not None and prompt.facts and not info.prompt_logprobs_with_facts:
        message = (
            "echo: this server's engine cannot tell log probabilities of the prompt while facts are mounted; "
            "leave out logprobs or set knowledge.enabled to false"
        )
        raise InvalidRequest(message, "echo", "unsupported_value")
