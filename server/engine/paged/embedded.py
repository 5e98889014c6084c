"""The embedded engine: one process, one thread that owns model and cache, one inbox in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from kan.checkpoint.directory import Checkpoint
from kan.kernels.choice import choose_kernels
from kan.knowledge.phi import Phi
from kan.model import KANModel
from kan.prompt import PromptBuilder
from server.engine.decoding.choice import Choice
from server.engine.decoding.grammar import Grammars
from server.engine.decoding.trial import Trial
from server.engine.dtype import choose_dtype
from server.engine.paged.jobs import Job, carry_out
from server.engine.paged.options import EngineOptions
from server.engine.paged.outbox import Outbox, settle
from server.engine.paged.owner import SHUT_DOWN, Owner
from server.engine.paged.page_form import PageForm
from server.engine.paged.sequence import Generation
from server.engine.paged.token_stream import TokenStream
from server.engine.paged.worker import Worker
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
from server.engine.request_limits import PageLimits, RequestLimits

log = logging.getLogger(__name__)

T = TypeVar("T")


class EmbeddedEngine:
    """See `server.engine.protocol.Engine`."""

    def __init__(
        self, model: KANModel, prompt: PromptBuilder, options: EngineOptions, phi: Phi | None, fingerprint: str
    ) -> None:
        self._options = options
        self._tokenizer = prompt.tokenizer
        self._end_tokens = frozenset(model.config.eos_token_ids)
        self.info = EngineInfo(
            name=model.config.name,
            model_fingerprint=fingerprint,
            context_length=model.config.max_position_embeddings,
            vocab_size=model.config.vocab_size,
            max_running=options.max_running,
            dtype=str(model.dtype).removeprefix("torch."),
            kernels=model.kernels.name,
        )
        self._limits = RequestLimits(self.info, len(prompt.preamble), options.max_fact_tokens)
        per_page = PageForm.of(model.dtype, options.page_bits).per_page
        self._page_limits = PageLimits(options.pages, len(prompt.preamble), options.max_fact_tokens, per_page)
        directories = () if options.page_dir is None else (options.page_dir,)
        self._files = PageFiles(directories, options.disk_bytes, options.disk_reserve_bytes)
        self._encodings: set[asyncio.Future[None]] = set()
        self._streams: dict[Generation, tuple[asyncio.AbstractEventLoop, TokenStream]] = {}
        self._outbox = Outbox()
        self._grammars = Grammars(prompt.tokenizer, model.config.vocab_size, model.config.eos_token_ids, Trial())
        self._worker = Worker(model, prompt.preamble, phi, options, self._files, self._emit)
        self._owner = Owner(self._worker, self._outbox, options.stall_seconds)
        self._owner.start()

    @classmethod
    def start(
        cls, checkpoint: Checkpoint, prompt: PromptBuilder, options: EngineOptions, phi: Phi | None
    ) -> EmbeddedEngine:
        """Load the weights (seconds) and return a running engine. `phi`: None for no bias.

        Raises CheckpointError, naming the file; ValueError for options that do not fit the model.
        """
        config = options.configured(checkpoint.config)
        dtype = choose_dtype(options.dtype)
        kernels = choose_kernels(options.kernels, config, dtype)
        model = KANModel(config, checkpoint.tensors(), dtype=dtype, kernels=kernels)
        return cls(model, prompt, options, None if phi is None or phi.is_zero else phi, checkpoint.fingerprint)

    def stats(self) -> EngineStats:
        return self._owner.stats

    def exposition(self) -> bytes:
        """Nothing: all it counts is in `stats`."""
        return b""

    def healthy(self) -> bool:
        """False once closed or dead, or while one step takes longer than `stall_seconds`."""
        return self._owner.healthy()

    async def encode(self, facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        """See the protocol. RequestTooLarge: a fact over `max_fact_tokens`."""
        if not facts:
            return
        self._owner.require_alive()
        self._limits.check_facts(facts)
        await asyncio.gather(*[self._encode_one(fact, bulk) for fact in facts])

    def _encode_one(self, fact: FactTokens, bulk: bool) -> asyncio.Future[None]:
        """Not a coroutine: every fact is in the queue before anything else can happen on the loop."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = partial(self._outbox.settle, future)

        def settled(_: asyncio.Future[None]) -> None:
            self._encodings.discard(future)
            if future.cancelled():
                self._owner.order(partial(self._worker.leave, fact.key, waiter))

        self._encodings.add(future)
        future.add_done_callback(settled)
        self._owner.order(partial(self._worker.encode, fact, waiter, bulk=bulk))
        return future

    def has_pages(self, key: str) -> bool:
        """See the protocol."""
        return self._files.life.is_made(key)

    def expect(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        self._files.read_ahead(keys)

    def has_room(self) -> bool:
        """See the protocol. Without a disk half the memory is for such pages: the other half is for contexts."""
        if self._options.page_dir is not None:
            return self._files.has_room
        stats = self.stats()
        return stats.pages_free > stats.pages_total // 2

    async def run(self, function: Callable[[], T]) -> T:
        """See the protocol: on the engine's thread, which computes with every core; at most one in every step."""
        self._owner.require_alive()
        job = self._owner.jobs.put(function)
        self._owner.wake()
        return await asyncio.wrap_future(job)

    def forget(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        self._owner.order(partial(self._worker.forget, tuple(keys)))

    def reconcile(self, held: Collection[str]) -> None:
        """See the protocol."""
        self._owner.order(partial(self._worker.reconcile, frozenset(held)))

    def compile(self, source: str) -> Grammar:
        """See the protocol."""
        return self._grammars.compile(source)

    def compiled(self, source: str) -> Grammar | None:
        """See the protocol."""
        return self._grammars.compiled(source)

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See the protocol. Also raises ValueError for sampling parameters out of range."""
        self._owner.require_alive()
        self._limits.check_request(request)
        self._page_limits.check_request(request)
        grammar = request.sampling.grammar
        constraint = None if grammar is None else self._grammars.constraint(grammar)
        choice = Choice(request.sampling, request.prompt, self._tokenizer, self._end_tokens, constraint)
        generation = Generation(request, choice)
        stream = TokenStream(partial(self._owner.send, partial(self._cancel, generation)), request.deadline)
        self._streams[generation] = (asyncio.get_running_loop(), stream)
        self._owner.send(partial(self._worker.submit, generation))
        return stream

    async def aclose(self) -> None:
        """Stop taking work, give what is left an error, join the thread; if it hangs, leave it behind. Idempotent."""
        if not await asyncio.to_thread(self._owner.close, self._options.close_seconds):
            log.error("a step of the engine hangs; its thread is left behind")
            self._answer_all(EngineUnavailable(SHUT_DOWN))
        self._grammars.close()
        await asyncio.to_thread(self._files.close)

    async def audit(self, held: Collection[str] | None = None) -> None:
        """AssertionError unless every page is accounted for, once all that was asked for before is under way; with
        `held`, the keys that facts have, also if a page belongs to none.

        Checked on the engine's own thread, after every earlier cancellation and edit; `stats` know it afterwards.
        """
        self._owner.require_alive()
        job: Job[None] = Future()
        self._owner.send(self._owner.take_edits)
        self._owner.send(partial(carry_out, partial(self._check, held), job))
        await asyncio.wrap_future(job)

    def _answer_all(self, error: Exception) -> None:
        """On the event loop, in place of a thread that does not."""
        for _, stream in list(self._streams.values()):
            stream.put(error)
        for future in list(self._encodings):
            settle(future, error)
        self._owner.jobs.fail_all(error)

    # --- on the engine's thread ---

    def _check(self, held: Collection[str] | None) -> None:
        self._worker.audit(held)
        self._owner.flush()

    def _cancel(self, generation: Generation) -> None:
        self._worker.cancel(generation)
        self._streams.pop(generation, None)

    def _emit(self, generation: Generation, item: TokenChunk | Exception) -> None:
        entry = self._streams.get(generation)
        if entry is None:
            return
        loop, stream = entry
        self._outbox.post(loop, partial(stream.put, item))
        if isinstance(item, Exception) or item.finish_reason is not None:
            self._streams.pop(generation, None)
