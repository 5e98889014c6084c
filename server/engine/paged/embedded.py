"""The embedded engine: one process, one thread that owns model and cache, one inbox in front of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

from kan.checkpoint.directory import Checkpoint
from kan.kernels.choice import choose_kernels
from kan.knowledge.phi import Phi
from kan.model import KANModel
from kan.prompt import PromptBuilder
from server.engine.dtype import choose_dtype
from server.engine.paged.interruption import Interruption
from server.engine.paged.options import EngineOptions
from server.engine.paged.sequence import Generation
from server.engine.paged.token_stream import TokenStream
from server.engine.paged.worker import Worker
from server.engine.pages.page_store import PageStore
from server.engine.protocol import (
    EngineInfo,
    EngineOverloaded,
    EngineStats,
    EngineUnavailable,
    FactTokens,
    GenerationRequest,
    TokenChunk,
)
from server.engine.request_limits import PageLimits, RequestLimits
from server.threads import compute_with_all_cores

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1.0
MAX_FAILURES = 3
"""Steps that may fail in a row before the engine declares itself dead."""
BLOCKED_WAIT_SECONDS = 0.002

T = TypeVar("T")
Command = Callable[[], None]
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
        self._store = PageStore(options.page_dir, options.disk_bytes) if options.page_dir else None
        self._inbox: SimpleQueue[Command | None] = SimpleQueue()
        self._edits: SimpleQueue[Command] = SimpleQueue()
        """Facts to encode: unlike other commands they may be obeyed in the middle of a step."""
        self._jobs: SimpleQueue[Command] = SimpleQueue()
        """Computations of `run`, likewise."""
        self._streams: dict[Generation, tuple[asyncio.AbstractEventLoop, TokenStream]] = {}
        self._outbox: dict[asyncio.AbstractEventLoop, list[Reply]] = {}
        self._open = 0
        self._open_encodings = 0
        self._lock = threading.Lock()
        self._closed = False
        self._dead: Exception | None = None
        self._step_started: float | None = None
        self._worker = Worker(model, prompt.preamble, phi, options, self._store, self._emit)
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

    async def encode(self, facts: Sequence[FactTokens]) -> None:
        """See the protocol. RequestTooLarge: a fact over `max_fact_tokens`; EngineOverloaded: too many wait."""
        if not facts:
            return
        self._require_alive()
        self._limits.check_facts(facts)
        with self._lock:
            if self._open_encodings + len(facts) > self._options.max_encode_queue:
                raise EngineOverloaded("too many facts wait to be encoded", RETRY_AFTER_SECONDS)
            self._open_encodings += len(facts)
        await asyncio.gather(*[self._encode_one(fact) for fact in facts])

    def _encode_one(self, fact: FactTokens) -> asyncio.Future[None]:
        """Not a coroutine: everything is in the inbox before anything else can happen on the loop."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            with self._lock:
                self._open_encodings -= 1
            self._reply(future, error)

        self._edits.put(partial(self._worker.encode, fact, done))
        self._inbox.put(_wake)
        return future

    async def run(self, function: Callable[[], T]) -> T:
        """See the protocol: on the engine's thread, which computes with every core; at most one in every step."""
        self._require_alive()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(partial(self._carry_out, function, future))
        self._inbox.put(_wake)
        return await future

    async def forget(self, keys: Sequence[str]) -> None:
        """See the protocol. Does not wait for the engine: whatever is submitted later comes after it."""
        self._require_alive()
        self._inbox.put(partial(self._worker.forget, tuple(keys)))

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See the protocol. Also raises ValueError for sampling parameters out of range."""
        self._require_alive()
        self._limits.check_request(request)
        self._page_limits.check_request(request)
        generation = Generation(request, self._tokenizer)
        with self._lock:
            if self._open >= self._options.max_waiting + self._options.max_running:
                raise EngineOverloaded("the waiting queue is full", RETRY_AFTER_SECONDS)
            self._open += 1
        stream = TokenStream(partial(self._inbox.put, partial(self._cancel, generation)))
        self._streams[generation] = (asyncio.get_running_loop(), stream)
        self._inbox.put(partial(self._worker.submit, generation))
        return stream

    async def aclose(self) -> None:
        """Stop taking work, give what is left an error, join the thread. Idempotent."""
        self._closed = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        if self._store is not None:
            store, self._store = self._store, None
            await asyncio.to_thread(store.close)

    async def audit(self) -> None:
        """AssertionError unless every page is accounted for, once all that was asked for before is under way.

        Checked on the engine's own thread, and in the inbox's order: every earlier cancellation has been heard.
        """
        self._require_alive()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.put(partial(self._carry_out, self._worker.audit, future))
        await future

    def _require_alive(self) -> None:
        if self._closed or self._dead is not None or not self._thread.is_alive():
            raise EngineUnavailable("the engine is shut down" if self._closed else f"the engine died: {self._dead}")

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
            self._abandon(EngineUnavailable("the engine has shut down"))
            self._flush()

    def _obey(self) -> bool:
        """Carry out every waiting command; with nothing to do, wait for one. False to stop."""
        while True:
            try:
                nothing_to_do = self._worker.idle and self._jobs.empty() and self._edits.empty()
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
                self._abandon(EngineUnavailable(f"the engine died: {self._dead}"))
            if self._inbox.empty():
                self._flush()

    def _recover(self, error: Exception, failures: int) -> None:
        log.error("a step of the engine failed", exc_info=error)
        if failures >= MAX_FAILURES:
            self._dead = error
        try:
            self._abandon(EngineUnavailable(f"the engine failed: {error}"))
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
        if self._jobs.empty():
            return False
        self._jobs.get()()
        self._flush()
        return True

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

    def _carry_out(self, function: Callable[[], T], future: asyncio.Future[T]) -> None:
        try:
            settle = partial(_set_result, future, function())
        except Exception as error:
            settle = partial(_set_exception, future, error)
        self._outbox.setdefault(future.get_loop(), []).append(settle)

    def _reply(self, future: asyncio.Future[None], error: Exception | None) -> None:
        settle = partial(_set_result, future, None) if error is None else partial(_set_exception, future, error)
        self._outbox.setdefault(future.get_loop(), []).append(settle)

    def _close_stream(self, generation: Generation) -> None:
        if self._streams.pop(generation, None) is not None:
            with self._lock:
                self._open -= 1

    def _flush(self) -> None:
        """Hand over everything of this step with one wake-up per event loop, after the numbers it changed."""
        self._stats = self._worker.stats()
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
