"""The embedded engine: one process, one thread that owns model and cache, one inbox in front of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

from kan.checkpoint.directory import Checkpoint
from kan.kernels.choice import choose_kernels
from kan.knowledge.phi import Phi
from kan.model import KANModel
from kan.prompt import PromptBuilder
from server.engine.decoding.choice import Choice
from server.engine.dtype import choose_dtype
from server.engine.paged.interruption import Interruption
from server.engine.paged.jobs import Job, JobQueue, carry_out
from server.engine.paged.options import EngineOptions
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
    TokenChunk,
)
from server.engine.request_limits import PageLimits, RequestLimits
from server.threads import compute_with_all_cores

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Steps that may fail in a row before the engine declares itself dead."""
BLOCKED_WAIT_SECONDS = 0.002

SHUT_DOWN = "the engine has shut down"
DIED = "the engine died"

T = TypeVar("T")
Command = Callable[[], object]
Reply = Callable[[], None]


class EmbeddedEngine:
    """See `server.engine.protocol.Engine`."""

    def __init__(
        self, model: KANModel, prompt: PromptBuilder, options: EngineOptions, phi: Phi | None, fingerprint: str
    ) -> None:
        self._options = options
        self._tokenizer = prompt.tokenizer
        self.info = EngineInfo(
            name=model.config.name,
            model_fingerprint=fingerprint,
            context_length=model.config.max_position_embeddings,
            vocab_size=model.config.vocab_size,
            max_waiting=options.max_waiting,
            max_running=options.max_running,
            dtype=str(model.dtype).removeprefix("torch."),
            kernels=model.kernels.name,
        )
        self._limits = RequestLimits(self.info, len(prompt.preamble), options.max_fact_tokens)
        self._page_limits = PageLimits(options.pages, len(prompt.preamble), options.max_fact_tokens)
        directories = () if options.page_dir is None else (options.page_dir,)
        self._files = PageFiles(directories, options.disk_bytes, options.disk_reserve_bytes)
        self._inbox: SimpleQueue[Command | None] = SimpleQueue()
        self._edits: SimpleQueue[Command] = SimpleQueue()
        """What concerns facts' pages, in order: unlike other commands these may be obeyed in the middle of a step."""
        self._jobs = JobQueue()
        """Computations of `run`, likewise."""
        self._encodings: set[asyncio.Future[None]] = set()
        self._streams: dict[Generation, tuple[asyncio.AbstractEventLoop, TokenStream]] = {}
        self._outbox: dict[asyncio.AbstractEventLoop, list[Reply]] = {}
        self._end_tokens = frozenset(model.config.eos_token_ids)
        self._closed = False
        self._dead: Exception | None = None
        self._step_started: float | None = None
        self._worker = Worker(model, prompt.preamble, phi, options, self._files, self._emit)
        self._stats = self._worker.stats()
        self._thread = threading.Thread(target=self._run, name="kalmagrove-engine", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls, checkpoint: Checkpoint, prompt: PromptBuilder, options: EngineOptions, phi: Phi | None
    ) -> EmbeddedEngine:
        """Load the weights (seconds) and return a running engine. `phi`: None for no bias.

        Raises CheckpointError, naming the file; ValueError for options that do not fit the model.
        """
        config = checkpoint.config
        dtype = choose_dtype(options.dtype)
        kernels = choose_kernels(options.kernels, config, dtype)
        model = KANModel(config, checkpoint.tensors(), dtype=dtype, kernels=kernels)
        return cls(model, prompt, options, None if phi is None or phi.is_zero else phi, checkpoint.fingerprint)

    def stats(self) -> EngineStats:
        return self._stats

    def exposition(self) -> bytes:
        """Nothing: all it counts is in `stats`."""
        return b""

    def healthy(self) -> bool:
        """False once closed or dead, or while one step takes longer than `stall_seconds`."""
        started = self._step_started
        stalled = started is not None and time.monotonic() - started > self._options.stall_seconds
        return self._thread.is_alive() and not (self._closed or self._dead or stalled)

    async def encode(self, facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        """See the protocol. RequestTooLarge: a fact over `max_fact_tokens`."""
        if not facts:
            return
        self._require_alive()
        self._limits.check_facts(facts)
        await asyncio.gather(*[self._encode_one(fact, bulk) for fact in facts])

    def _encode_one(self, fact: FactTokens, bulk: bool) -> asyncio.Future[None]:
        """Not a coroutine: every fact is in the queue before anything else can happen on the loop."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def waiter(error: Exception | None) -> None:
            self._reply(future, error)

        def settled(_: asyncio.Future[None]) -> None:
            self._encodings.discard(future)
            if future.cancelled():
                self._order(partial(self._worker.leave, fact.key, waiter))

        self._encodings.add(future)
        future.add_done_callback(settled)
        self._order(partial(self._worker.encode, fact, waiter, bulk=bulk))
        return future

    async def run(self, function: Callable[[], T]) -> T:
        """See the protocol: on the engine's thread, which computes with every core; at most one in every step."""
        self._require_alive()
        job = self._jobs.put(function)
        self._inbox.put(_wake)
        return await asyncio.wrap_future(job)

    def forget(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        self._order(partial(self._worker.forget, tuple(keys)))

    def reconcile(self, held: Collection[str]) -> None:
        """See the protocol."""
        self._order(partial(self._worker.reconcile, frozenset(held)))

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See the protocol. Also raises ValueError for sampling parameters out of range."""
        self._require_alive()
        self._limits.check_request(request)
        self._page_limits.check_request(request)
        choice = Choice(request.sampling, request.prompt, self._tokenizer, self._end_tokens)
        generation = Generation(request, choice)
        stream = TokenStream(partial(self._inbox.put, partial(self._cancel, generation)), request.deadline)
        self._streams[generation] = (asyncio.get_running_loop(), stream)
        self._inbox.put(partial(self._worker.submit, generation))
        return stream

    async def aclose(self) -> None:
        """Stop taking work, give what is left an error, join the thread; if it hangs, leave it behind. Idempotent."""
        self._closed = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, self._options.close_seconds)
        if self._thread.is_alive():
            log.error("a step of the engine hangs; its thread is left behind")
            self._answer_all(EngineUnavailable(SHUT_DOWN))
        await asyncio.to_thread(self._files.close)

    async def audit(self, held: Collection[str] | None = None) -> None:
        """AssertionError unless every page is accounted for, once all that was asked for before is under way; with
        `held`, the keys that facts have, also if a page belongs to none.

        Checked on the engine's own thread, after every earlier cancellation and edit.
        """
        self._require_alive()
        job: Job[None] = Future()
        self._inbox.put(self._take_edits)
        self._inbox.put(partial(carry_out, partial(self._worker.audit, held), job))
        await asyncio.wrap_future(job)

    def _order(self, command: Command) -> None:
        self._edits.put(command)
        self._inbox.put(_wake)

    def _answer_all(self, error: Exception) -> None:
        """On the event loop, in place of a thread that does not."""
        for _, stream in self._streams.values():
            stream.put(error)
        for future in self._encodings:
            _set_exception(future, error)
        self._jobs.cancel_all()

    def _require_alive(self) -> None:
        if self._closed or self._dead is not None or not self._thread.is_alive():
            raise EngineUnavailable(SHUT_DOWN if self._closed else DIED)

    # --- on the engine's thread ---

    def _run(self) -> None:
        failures = 0
        compute_with_all_cores()
        with torch.inference_mode():
            while self._obey():
                try:
                    self._step_started = time.monotonic()
                    self._interruption()()
                    moved = self._worker.step(self._interruption())
                    self._step_started = None
                    failures = 0 if moved else failures
                except Exception as error:
                    self._step_started = None
                    failures += 1
                    self._recover(error, failures)
                    moved = True
                self._flush()
                if not (moved or self._worker.idle):
                    time.sleep(BLOCKED_WAIT_SECONDS)
            self._abandon(EngineUnavailable(SHUT_DOWN))
            self._flush()

    def _obey(self) -> bool:
        """Carry out every waiting command; with nothing to do, wait for one. False to stop."""
        while True:
            try:
                nothing_to_do = self._worker.idle and self._jobs.empty and self._edits.empty()
                command = self._inbox.get(block=nothing_to_do or self._dead is not None)
            except Empty:
                return True
            if command is None:
                return False
            try:
                command()
            except Exception as error:
                self._recover(error, MAX_FAILURES)
            if self._dead is not None:  # what was sent before its sender could know
                self._abandon(EngineUnavailable(DIED))
            if self._inbox.empty():
                self._flush()

    def _recover(self, error: Exception, failures: int) -> None:
        log.error("a step of the engine failed", exc_info=error)
        if failures >= MAX_FAILURES:
            self._dead = error
        try:
            self._abandon(EngineUnavailable("a step of the engine failed"))
        except Exception as second:
            log.critical("the engine cannot recover", exc_info=second)
            self._dead = second

    def _abandon(self, error: Exception) -> None:
        """Answer everybody who waits: with an error, or with what was asked for if it needs no model."""
        while self._take_job():
            pass
        self._take_edits()
        self._worker.abandon(error)

    def _take_edits(self) -> None:
        while not self._edits.empty():
            self._edits.get()()
            self._flush()

    def _interruption(self) -> Interruption:
        return Interruption(self._take_edits, self._take_job, self._encode_now)

    def _encode_now(self) -> bool:
        encoded = self._worker.encode_now()
        if encoded:
            self._flush()
        return encoded

    def _take_job(self) -> bool:
        return self._jobs.carry_out_one()

    def _cancel(self, generation: Generation) -> None:
        self._worker.cancel(generation)
        self._close_stream(generation)

    def _emit(self, generation: Generation, item: TokenChunk | Exception) -> None:
        entry = self._streams.get(generation)
        if entry is None:
            return
        loop, stream = entry
        self._outbox.setdefault(loop, []).append(partial(stream.put, item))
        if isinstance(item, Exception) or item.finish_reason is not None:
            self._close_stream(generation)

    def _reply(self, future: asyncio.Future[None], error: Exception | None) -> None:
        settle = partial(_set_result, future, None) if error is None else partial(_set_exception, future, error)
        self._outbox.setdefault(future.get_loop(), []).append(settle)

    def _close_stream(self, generation: Generation) -> None:
        self._streams.pop(generation, None)

    def _flush(self) -> None:
        """Hand over everything of this step with one wake-up per event loop, after the numbers it changed."""
        self._stats = replace(self._worker.stats(), jobs_dropped=self._jobs.dropped)
        outbox, self._outbox = self._outbox, {}
        for loop, replies in outbox.items():
            try:
                loop.call_soon_threadsafe(_deliver, replies)
            except RuntimeError:  # the loop has closed: nobody is left to read
                log.debug("dropped %d replies to a closed event loop", len(replies))


def _wake() -> None:
    """A command that only ends the wait for commands."""


def _deliver(replies: list[Reply]) -> None:
    for reply in replies:
        reply()


def _set_result(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _set_exception(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
