"""The vLLM engine behind the protocol: facts recorded when they are new, requests mounted and streamed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from kan.checkpoint import Checkpoint
from kan.phi import Phi
from kan.prompt import PromptBuilder
from server.engine.output import advance
from server.engine.protocol import (
    DeadlineExceeded,
    EngineError,
    EngineInfo,
    EngineOverloaded,
    EngineStats,
    EngineUnavailable,
    FactTokens,
    GenerationRequest,
    TokenChunk,
)
from server.engine.request_limits import RequestLimits
from server.engine.sampling import SampledToken
from server.engine.sequence import Generation
from server.engine.vllm.arguments import VllmOptions
from server.engine.vllm.core import Core
from server.engine.vllm.pages import StagedPages
from server.engine.vllm.progress import Progress
from server.engine.vllm.requests import Preamble, generation, prompt_logprobs, recording, token_logprob
from server.threads import compute_alone

T = TypeVar("T")
RETRY_AFTER_SECONDS = 1.0
RECORDINGS_AT_ONCE = 32
"""Facts that are with vLLM at the same time; more wait here."""
LOST = "the knowledge of this request could not be loaded; try again"


class VllmEngine:
    """See `server.engine.protocol.Engine`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompt: PromptBuilder,
        options: VllmOptions,
        phi: Phi | None,
        salt: str,
        config: Any,
        create: Callable[[Progress], Any],
        pages: StagedPages,
    ) -> None:
        """`config`: vLLM's; `create` starts an AsyncLLM and blocks meanwhile. Use `start`."""
        self._options = options
        self._tokenizer = prompt.tokenizer
        self._phi = phi
        self._salt = salt
        self._end_tokens = checkpoint.config.eos_token_ids
        self._pages = pages
        self._preamble = Preamble(prompt.preamble_key(checkpoint.fingerprint), tuple(prompt.preamble))
        self.info = EngineInfo(
            name=checkpoint.config.name,
            model_fingerprint=checkpoint.fingerprint,
            context_length=config.model_config.max_model_len,
            vocab_size=checkpoint.config.vocab_size,
            max_waiting=options.max_waiting,
            max_running=options.max_running,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            kernels="vllm",
            facts_side_by_side=False,
            prompt_logprobs_with_facts=False,
        )
        self._limits = RequestLimits(self.info, len(self._preamble.tokens), options.max_fact_tokens)
        self._progress = Progress()
        self._counts = EngineStats()
        self._open = self._open_encodings = 0
        self._encoding: dict[str, asyncio.Task[None]] = {}
        self._forgotten: set[str] = set()
        """Of those: deleted meanwhile, so their content is for those who already wait for it."""
        self._recordings = asyncio.Semaphore(RECORDINGS_AT_ONCE)
        self._jobs = ThreadPoolExecutor(1, "kalmagrove-jobs", compute_alone)
        self._core = Core(partial(create, self._progress), self._progress.forget_loads)

    @classmethod
    def start(
        cls, checkpoint: Checkpoint, prompt: PromptBuilder, options: VllmOptions, phi: Phi | None, origin: str
    ) -> VllmEngine:
        """Start vLLM's processes (tens of seconds). `origin` names encoder and φ.

        Raises ValueError for options that vLLM or the model does not take, VllmUnavailable without vLLM.
        """
        from server.engine.vllm.launch import launcher

        config, create, pages = launcher(checkpoint, options)
        bias = None if phi is None or phi.is_zero else phi
        return cls(checkpoint, prompt, options, bias, origin, config, create, pages)

    def stats(self) -> EngineStats:
        loads = self._progress.loads.values()
        blocks = self._core.blocks
        used = round(blocks * sum(load.cache_usage for load in loads) / max(1, len(loads)))
        return replace(
            self._counts,
            waiting=sum(load.waiting for load in loads),
            running=sum(load.running for load in loads),
            pages_total=blocks,
            pages_free=blocks - used,
            pages_context=used,
            preemptions=self._progress.preemptions,
            steps=self._progress.steps,
        )

    def exposition(self) -> bytes:
        """Everything vLLM measures."""
        from prometheus_client import REGISTRY, generate_latest

        return generate_latest(REGISTRY)

    def healthy(self) -> bool:
        """False while vLLM's processes are gone, or while requests are open and nothing was heard for long."""
        busy = self._open + self._open_encodings > 0
        stalled = busy and time.monotonic() - self._progress.last > self._options.stall_seconds
        return self._core.alive and not stalled

    async def encode(self, facts: Sequence[FactTokens]) -> None:
        """See the protocol. RequestTooLarge: a fact over `max_fact_tokens`; EngineOverloaded: too many wait."""
        if not facts:
            return
        self._core.use()
        self._limits.check_facts(facts)
        if self._open_encodings + len(facts) > self._options.max_encode_queue:
            raise EngineOverloaded("too many facts wait to be encoded", RETRY_AFTER_SECONDS)
        await self._ensure([self._own_preamble, *facts])

    async def forget(self, keys: Sequence[str]) -> None:
        """See the protocol. Files stay until their last reader ends; facts on their way to disk go when they arrive."""
        for key in keys:
            if key in self._encoding:
                self._forgotten.add(key)
            self._pages.remove(key)

    async def run(self, function: Callable[[], T]) -> T:
        """See the protocol: on a thread of its own, since vLLM computes in other processes."""
        return await asyncio.get_running_loop().run_in_executor(self._jobs, function)

    def generate(self, request: GenerationRequest) -> VllmStream:
        """See the protocol. Also raises ValueError for sampling parameters out of range."""
        self._core.use()
        self._limits.check_request(request)
        if request.facts and request.sampling.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs: not available while facts are mounted")
        if self._open >= self._options.max_waiting + self._options.max_running:
            raise EngineOverloaded("the waiting queue is full", RETRY_AFTER_SECONDS)
        return VllmStream(self, request)

    async def aclose(self) -> None:
        """Stop vLLM's processes; what is left gets an error. Idempotent."""
        await self._core.aclose()
        self._jobs.shutdown(wait=False)

    # --- for the streams ---

    def enter(self, request: GenerationRequest) -> list[str]:
        """Count a request as open and keep its facts' files. Returns what `leave` wants."""
        self._expect_progress()
        self._open += 1
        keys = [self._preamble.key, *(mounted.fact.key for mounted in request.facts)] if request.facts else []
        self._pages.retain(keys)
        return keys

    def leave(self, keys: Sequence[str], *, cancelled: bool) -> None:
        """The opposite, once."""
        self._open -= 1
        self._pages.release(keys)
        self._count(cancellations=int(cancelled))

    async def chunks(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        """The request's chunks, up to the last. Raises EngineUnavailable."""
        if request.facts:
            await self._make_mountable(request)
        state = Generation(request, self._tokenizer)
        asked = generation(request, self._preamble, self._phi, self._end_tokens, self._salt)
        outputs = self._core.use().generate(asked.prompt, asked.params, _unique(request.id))
        async with self._failures_told(), aclosing(outputs):
            async for output in outputs:
                for chunk in self._advanced(state, output):
                    yield chunk
                    if chunk.finish_reason is not None:
                        return  # closing `outputs` aborts what vLLM would still do, after a stop string

    def _advanced(self, state: Generation, output: Any) -> Iterator[TokenChunk]:
        """The output's tokens one by one, as the embedded engine would tell them."""
        (new,) = output.outputs
        if new.finish_reason == "error":
            keys = (self._preamble.key, *(mounted.fact.key for mounted in state.request.facts))
            self._pages.discard_damaged(keys)  # so that they are recorded anew when next needed
            raise EngineUnavailable(LOST)
        sampling = state.request.sampling
        if not state.started:
            self._count(prompt_tokens=len(state.request.prompt))
            state.queued = _queued(output)
            if sampling.prompt_logprobs is not None:
                state.prompt_logprobs = prompt_logprobs(
                    state.request.prompt, output.prompt_logprobs or (), sampling.prompt_logprobs
                )
        for place, token in enumerate(new.token_ids):
            found = None
            if sampling.logprobs is not None:
                found = token_logprob(token, new.logprobs[place], sampling.logprobs)
            self._count(generated_tokens=1)
            # vLLM's kernels do not tell how attention was shared out.
            yield replace(advance(state, SampledToken(token, found), self._end_tokens, 1), attention=None)

    # --- facts ---

    @property
    def _own_preamble(self) -> FactTokens:
        return FactTokens(self._preamble.key, self._preamble.tokens)

    async def _make_mountable(self, request: GenerationRequest) -> None:
        """Facts whose content was lost from disk are recorded again first."""
        facts = [self._own_preamble, *(mounted.fact for mounted in request.facts)]
        missing = [fact for fact in facts if not self._pages.touch(fact.key)]
        misses = sum(fact.key != self._preamble.key for fact in missing)
        self._count(page_misses=misses, page_hits=len(request.facts) - misses)
        await self._ensure(missing)

    async def _ensure(self, facts: Sequence[FactTokens]) -> None:
        """Return once all are on disk. Facts that several want are recorded once."""
        for fact in facts:
            self._forgotten.discard(fact.key)
            self._pages.keep(fact.key)
        tasks = {fact.key: self._recording(fact) for fact in facts if fact.key not in self._pages}
        if tasks:
            await asyncio.gather(*map(asyncio.shield, tasks.values()))

    def _recording(self, fact: FactTokens) -> asyncio.Task[None]:
        task = self._encoding.get(fact.key)
        if task is None:
            task = self._encoding[fact.key] = asyncio.create_task(self._record(fact))
            task.add_done_callback(lambda _: self._encoding.pop(fact.key))
        return task

    async def _record(self, fact: FactTokens) -> None:
        is_preamble = fact.key == self._preamble.key
        asked = recording(fact, None if is_preamble else self._preamble, name := _unique("encode"))
        self._expect_progress()
        self._open_encodings += 1
        try:
            async with self._recordings, self._failures_told():
                async for _ in self._core.use().generate(asked.prompt, asked.params, name):
                    pass
            self._pages.adopt(fact.key)
            if fact.key in self._forgotten:
                self._pages.remove(fact.key)
        except OSError as error:
            raise EngineUnavailable(f"a fact could not be encoded: {error}") from error
        finally:
            self._open_encodings -= 1
            self._forgotten.discard(fact.key)
        self._count(facts_encoded=int(not is_preamble))

    # --- counting ---

    def _expect_progress(self) -> None:
        """Silence counts from now on, if nothing was open before."""
        if self._open + self._open_encodings == 0:
            self._progress.last = time.monotonic()

    def _count(self, **added: int) -> None:
        changed = {name: getattr(self._counts, name) + number for name, number in added.items()}
        self._counts = replace(self._counts, **changed)

    @asynccontextmanager
    async def _failures_told(self) -> AsyncIterator[None]:
        """What vLLM raises, as the protocol's errors."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            yield
        except EngineDeadError:
            raise EngineUnavailable("vLLM's engine died while it worked on this request") from None
        except EngineGenerateError as error:
            raise EngineUnavailable(f"vLLM could not run the request: {error.__cause__ or error}") from error


class VllmStream(AsyncIterator[TokenChunk]):
    """One request's chunks, in time. Closing it, or cancelling who waits for it, cancels the work."""

    def __init__(self, engine: VllmEngine, request: GenerationRequest) -> None:
        self._engine = engine
        self._deadline = request.deadline
        self._held: list[str] | None = engine.enter(request)
        self._chunks = engine.chunks(request)

    def __aiter__(self) -> VllmStream:
        return self

    async def __anext__(self) -> TokenChunk:
        if self._held is None:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(_left(self._deadline)) as limit:
                chunk = await anext(self._chunks)
        except TimeoutError:
            await self.aclose()
            if limit.expired():
                raise DeadlineExceeded("the request's deadline passed") from None
            raise
        except EngineError:
            await self._end(cancelled=False)
            raise
        except BaseException:
            await self.aclose()
            raise
        if chunk.finish_reason is not None:
            await self._end(cancelled=False)
        return chunk

    async def aclose(self) -> None:
        """Stop the work, if it is not at its end."""
        await self._end(cancelled=True)

    async def _end(self, *, cancelled: bool) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            try:
                await self._chunks.aclose()
            finally:
                self._engine.leave(held, cancelled=cancelled)


def _unique(name: str) -> str:
    """vLLM refuses an id that is in use; ours may come from a client."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


def _queued(output: Any) -> float:
    """Seconds between arrival and admission, by vLLM's clock."""
    times = output.metrics
    return max(0.0, times.scheduled_ts - times.queued_ts) if times is not None else 0.0
