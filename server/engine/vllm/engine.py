"""The vLLM engine behind the protocol: facts recorded when they are new, requests mounted and streamed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from cpu.threads import compute_alone
from kan.checkpoint.directory import Checkpoint
from kan.knowledge.phi import Phi
from kan.prompt import PromptBuilder
from server.engine.decoding.choice import Choice
from server.engine.decoding.grammar import Grammars
from server.engine.decoding.sampling import SampledToken
from server.engine.decoding.trial import Trial
from server.engine.pages.files import PageFiles
from server.engine.protocol import (
    EngineInfo,
    EngineStats,
    EngineUnavailable,
    FactTokens,
    GenerationRequest,
    Grammar,
    TokenChunk,
)
from server.engine.request_limits import RequestLimits
from server.engine.vllm.arguments import VllmOptions
from server.engine.vllm.core import Core
from server.engine.vllm.facts import FactShelf
from server.engine.vllm.progress import ForwardProgress
from server.engine.vllm.requests import Preamble, VllmRequest, generation, prompt_logprobs, token_logprob
from server.engine.vllm.stream import VllmStream

T = TypeVar("T")
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
        create: Callable[[ForwardProgress], Any],
        files: PageFiles,
    ) -> None:
        """`config`: vLLM's; `create` starts an AsyncLLM and blocks meanwhile. Use `start`."""
        self._options = options
        self._tokenizer = prompt.tokenizer
        self._phi = phi
        self._salt = salt
        self._end_tokens = checkpoint.config.eos_token_ids
        self._preamble = Preamble(prompt.preamble_key(checkpoint.fingerprint), tuple(prompt.preamble))
        self.info = EngineInfo(
            name=checkpoint.config.name,
            model_fingerprint=checkpoint.fingerprint,
            context_length=config.model_config.max_model_len,
            vocab_size=checkpoint.config.vocab_size,
            max_running=options.max_running,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            kernels="vllm",
            facts_side_by_side=False,
            prompt_logprobs_with_facts=False,
        )
        self._limits = RequestLimits(self.info, len(self._preamble.tokens), options.max_fact_tokens)
        self._progress = ForwardProgress()
        self._counts = EngineStats()
        self._open = 0
        self._facts = FactShelf(files, self._preamble, self._record)
        self._files = files
        self._grammars = Grammars(prompt.tokenizer, checkpoint.config.vocab_size, self._end_tokens, Trial())
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

        bias = None if phi is None or phi.is_zero else phi
        config, create, files = launcher(checkpoint, options, None if bias is None else bias.adapter)
        return cls(checkpoint, prompt, options, bias, origin, config, create, files)

    def stats(self) -> EngineStats:
        loads = self._progress.loads.values()
        blocks = self._core.blocks
        used = round(blocks * sum(load.cache_usage for load in loads) / max(1, len(loads)))
        return replace(
            self._counts,
            page_hits=self._facts.hits,
            page_misses=self._facts.misses,
            facts_with_pages=len(self._files.life),
            facts_encoded=self._facts.encoded,
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
        stalled = self._busy and time.monotonic() - self._progress.last > self._options.stall_seconds
        return self._core.alive and not stalled

    async def encode(self, facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        """See the protocol. RequestTooLarge: a fact over `max_fact_tokens`."""
        if not facts:
            return
        self._core.use()
        self._limits.check_facts(facts)
        self._expect_progress()
        await self._facts.ensure(facts, bulk=bulk)

    def has_pages(self, key: str) -> bool:
        """See the protocol."""
        return self._files.life.is_made(key)

    def expect(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        self._files.read_ahead(keys)

    def has_room(self) -> bool:
        """See the protocol."""
        return self._files.has_room

    def forget(self, keys: Sequence[str]) -> None:
        """See the protocol. The state of pages is thread-safe, so this needs no event loop."""
        self._facts.forget(keys)

    def reconcile(self, held: Collection[str]) -> None:
        """See the protocol."""
        self._facts.reconcile(held)

    async def run(self, function: Callable[[], T]) -> T:
        """See the protocol: on a thread of its own, since vLLM computes in other processes."""
        return await asyncio.get_running_loop().run_in_executor(self._jobs, function)

    def compile(self, source: str) -> Grammar:
        """See the protocol. It only refuses what is wrong: vLLM compiles for itself, with the same library."""
        return self._grammars.compile(source)

    def compiled(self, source: str) -> Grammar | None:
        """See the protocol."""
        return self._grammars.compiled(source)

    def generate(self, request: GenerationRequest) -> VllmStream:
        """See the protocol. Also raises ValueError for sampling parameters out of range."""
        self._core.use()
        self._limits.check_request(request)
        if request.facts and request.sampling.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs: not available while facts are mounted")
        self._expect_progress()
        self._open += 1
        held = self._facts.hold([mounted.fact for mounted in request.facts])
        return VllmStream(self._chunks(request), request.deadline, partial(self._leave, held))

    async def aclose(self) -> None:
        """Stop vLLM's processes; what is left gets an error. Idempotent."""
        await self._core.aclose()
        self._jobs.shutdown(wait=False, cancel_futures=True)
        self._grammars.close()
        await asyncio.to_thread(self._files.close)

    @property
    def _busy(self) -> bool:
        return self._open + self._facts.under_way > 0

    def _expect_progress(self) -> None:
        """Silence counts from now on, if nothing was open before."""
        if not self._busy:
            self._progress.last = time.monotonic()

    def _leave(self, held: Sequence[str], cancelled: bool) -> None:
        self._open -= 1
        self._facts.let_go(held)
        self._count(cancellations=int(cancelled))

    def _count(self, **added: int) -> None:
        changed = {name: getattr(self._counts, name) + number for name, number in added.items()}
        self._counts = replace(self._counts, **changed)

    async def _record(self, asked: VllmRequest, name: str) -> None:
        async with _failures_told():
            async for _ in self._core.use().generate(asked.prompt, asked.params, name):
                pass

    async def _chunks(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        """The request's chunks, up to the last. Raises EngineUnavailable."""
        if request.facts:
            await self._facts.make_mountable([mounted.fact for mounted in request.facts])
        choice = Choice(request.sampling, request.prompt, self._tokenizer, self._end_tokens)
        asked = generation(request, self._preamble, self._phi, self._end_tokens, self._salt)
        outputs = self._core.use().generate(asked.prompt, asked.params, _unique(request.id))
        async with _failures_told(), aclosing(outputs):
            async for output in outputs:
                for chunk in self._advanced(request, choice, output):
                    yield chunk
                    if chunk.finish_reason is not None:
                        return  # closing `outputs` aborts what vLLM would still do, after a stop string

    def _advanced(self, request: GenerationRequest, choice: Choice, output: Any) -> Iterator[TokenChunk]:
        """The output's tokens one by one, as the embedded engine would tell them (but for attention, which vLLM's
        kernels do not tell)."""
        (new,) = output.outputs
        if new.finish_reason == "error":
            self._facts.discard_damaged([self._preamble.key, *(mounted.fact.key for mounted in request.facts)])
            raise EngineUnavailable(LOST)
        sampling = request.sampling
        queue_seconds = None
        if not choice.generated:
            self._count(prompt_tokens=len(request.prompt))
            queue_seconds = _queue_seconds(output)
            if sampling.prompt_logprobs is not None:
                found = prompt_logprobs(request.prompt, output.prompt_logprobs or (), sampling.prompt_logprobs)
                choice.score_prompt(found[1:])
        for place, token in enumerate(new.token_ids):
            logprob = None
            if sampling.logprobs is not None:
                logprob = token_logprob(token, new.logprobs[place], sampling.logprobs)
            self._count(generated_tokens=1)
            yield replace(choice.advance(SampledToken(token, logprob)), queue_seconds=queue_seconds)
            queue_seconds = None


@asynccontextmanager
async def _failures_told() -> AsyncIterator[None]:
    """What vLLM raises, as the protocol's errors."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    try:
        yield
    except EngineDeadError:
        raise EngineUnavailable("vLLM's engine died while it worked on this request") from None
    except EngineGenerateError as error:
        raise EngineUnavailable("vLLM could not run the request") from error


def _unique(name: str) -> str:
    """vLLM refuses an id that is in use; ours may come from a client."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def _queue_seconds(output: Any) -> float:
    """Seconds between arrival and admission, by vLLM's clock."""
    times = output.metrics
    return max(0.0, times.scheduled_ts - times.queued_ts) if times is not None else 0.0
