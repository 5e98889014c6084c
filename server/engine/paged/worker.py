"""The engine's inner loop: schedule → run → sample → deliver. Everything here belongs to one thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from kan.attention import pages_for
from kan.knowledge.phi import Phi
from kan.model import Batch, KANModel
from kan.page_pool import PagePool
from server.engine.decoding.sampling import token_logprob
from server.engine.paged.batching import BatchBuilder, Placed
from server.engine.paged.knowledge_cache import KnowledgeCache
from server.engine.paged.options import EngineOptions
from server.engine.paged.page_form import PageForm
from server.engine.paged.picking import Picked, TokenPicker
from server.engine.paged.prediction import Predictions
from server.engine.paged.scheduler import Chunk, Scheduler
from server.engine.paged.sequence import Encoding, Generation, Stage, Waiter, prefix_of
from server.engine.pages.files import PageFiles
from server.engine.protocol import EngineStats, FactTokens, TokenChunk


class GaveWay(Exception):
    """A step that nobody waited for was given up, because somebody came."""


Emit = Callable[[Generation, TokenChunk | Exception], None]


def _nothing() -> None:
    """Comes between two layers by default."""


def _nobody() -> bool:
    return False


def _giving_way(between: Callable[[], None], somebody_came: Callable[[], bool]) -> None:
    between()
    if somebody_came():
        raise GaveWay


class Worker:
    def __init__(
        self,
        model: KANModel,
        preamble: Sequence[int],
        phi: Phi | None,
        options: EngineOptions,
        files: PageFiles,
        emit: Emit,
    ) -> None:
        self._model = model
        self._emit = emit
        self._layers_and_heads = model.config.num_layers * model.config.num_heads
        form = PageForm.of(model.dtype, options.page_bits)
        self._cache = form.new_cache(model, options.pages)
        self._pool = PagePool(options.pages)
        adapter = None if phi is None else phi.adapter
        self._knowledge = KnowledgeCache(model, self._cache, self._pool, files, adapter, form)
        self._builder = BatchBuilder(self._pool, self._cache)
        self._predictions = Predictions(model, preamble)
        self._picker = TokenPicker(self._predictions.next)
        self._scheduler = Scheduler(self._pool, self._knowledge, phi, options)
        self._steps = self._encoded = self._prompt_tokens = self._generated = self._cancelled = 0
        self._encode_preamble(preamble)

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def submit(self, generation: Generation) -> None:
        if generation.stage is Stage.SUBMITTED:
            self._scheduler.submit(generation)

    def cancel(self, generation: Generation) -> None:
        if generation.stage is not Stage.ENDED:
            self._cancelled += 1
            self._scheduler.remove(generation)

    def encode(self, fact: FactTokens, waiter: Waiter, *, bulk: bool) -> None:
        self._scheduler.encode(fact, waiter, bulk=bulk)

    def leave(self, key: str, waiter: Waiter) -> None:
        self._scheduler.leave(key, waiter)

    def forget(self, keys: Sequence[str]) -> None:
        self._knowledge.forget(keys)

    def reconcile(self, held: Collection[str]) -> None:
        self._knowledge.reconcile(held)

    def step(self, between: Callable[[], None] = _nothing, somebody_came: Callable[[], bool] = _nobody) -> bool:
        """One forward pass and what follows from it. False if nothing could move.

        `between` is called between the layers. It may call `encode`, `leave`, `forget`, `reconcile` and `encode_now`,
        and nothing else here. A step that nobody waits for is given up between two layers if `somebody_came`: what it
        wrote is written again.
        """
        late = self._picker.late()
        self._deliver(late)
        chunks = self._scheduler.schedule()
        if not chunks:
            return bool(late)
        batch, placed = self._builder.build(chunks)
        patient = all(self._scheduler.can_wait(chunk.sequence) for chunk in chunks)
        try:
            hidden = self._model.forward(batch, partial(_giving_way, between, somebody_came) if patient else between)
        except GaveWay:
            return True
        self._finish_encodings(batch, placed)
        self._deliver(self._sample(hidden, placed))
        self._steps += 1
        return True

    def encode_now(self) -> bool:
        """Encode the facts of an edit in the middle of a step, without waiting for its end. False if there are none.

        Takes no page from anybody, and at most as many tokens as a step may while streams are decoding.
        """
        chunks = self._scheduler.schedule_edits()
        if chunks:
            batch, placed = self._builder.build(chunks)
            self._model.forward(batch)
            self._finish_encodings(batch, placed)
        return bool(chunks)

    def abandon(self, error: Exception) -> None:
        """Give everybody an error and take all pages back; what is resident may be damaged and goes too."""
        for generation in [*self._scheduler.running, *self._scheduler.waiting]:
            self._scheduler.remove(generation)
            self._emit(generation, error)
        self._picker.forget()
        self._scheduler.abandon_encodings(error)
        self._knowledge.clear()
        self._pool.audit()

    def audit(self, held: Collection[str] | None) -> None:
        """AssertionError unless every page is accounted for; `held`: the keys that facts have, if known."""
        self._scheduler.discard_unwaited()
        self._pool.audit()
        if self.idle:
            assert self._pool.used("context") == 0, "context pages are held by nobody"
            self._knowledge.audit(self._scheduler.preamble.pages, held)

    def stats(self) -> EngineStats:
        counters = self._scheduler.counters
        return EngineStats(
            waiting=len(self._scheduler.waiting),
            running=len(self._scheduler.running),
            pages_total=self._pool.total,
            pages_free=self._pool.free,
            pages_context=self._pool.used("context"),
            pages_knowledge=self._pool.used("knowledge"),
            page_hits=counters.page_hits,
            page_misses=counters.page_misses,
            facts_with_pages=len(self._knowledge.life),
            facts_encoded=self._encoded,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            preemptions=counters.preemptions,
            cancellations=self._cancelled,
            steps=self._steps,
        )

    @torch.inference_mode()
    def _encode_preamble(self, tokens: Sequence[int]) -> None:
        """Compute the pages every mounted request starts with; they stay for the engine's life."""
        if not tokens:
            self._scheduler.preamble = prefix_of([([], 0)])
            return
        encoding = Encoding(list(tokens), pages=self._pool.allocate(pages_for(len(tokens)), "knowledge"))
        batch, _ = self._builder.build([Chunk(encoding, len(tokens))])
        self._model.forward(batch)
        self._pool.publish(encoding.pages)
        self._scheduler.preamble = prefix_of([(encoding.pages, len(tokens))])
        self._scheduler.preamble_tokens = self._knowledge.first_position = len(tokens)

    def _finish_encodings(self, batch: Batch, placed: list[Placed]) -> None:
        for place in placed:
            sequence = place.chunk.sequence
            sequence.computed += place.chunk.count
            if isinstance(sequence, Encoding):
                layers = batch.captured or []
                sequence.captured.append([(k[place.rows].clone(), v[place.rows].clone()) for k, v in layers])
                if sequence.pending == 0:
                    self._encoded += 1
                    self._scheduler.encoded(sequence)

    def _sample(self, hidden: Tensor, placed: list[Placed]) -> list[Picked]:
        """Pick the next token of every generation whose tokens are all computed."""
        ready: list[tuple[Generation, int]] = []
        for place in placed:
            generation = place.chunk.sequence
            if not isinstance(generation, Generation):
                continue
            if generation.choice.scores_prompt:
                self._score_prompt(generation, hidden[place.outputs], place.chunk.count)
            if generation.pending == 0:
                ready.append((generation, place.outputs.stop - 1))
                generation.attend(place.mass)
        return self._picker.pick([one for one, _ in ready], hidden[[row for _, row in ready]]) if ready else []

    def _score_prompt(self, generation: Generation, hidden: Tensor, count: int) -> None:
        """Log probabilities of the prompt tokens that follow the rows just computed."""
        start = generation.computed - count
        first, following = generation.choice.unscored(start, generation.computed)
        if following:
            rows = hidden[first - start : first - start + len(following)]
            logits = self._predictions.along(generation, first, rows)
            wanted = generation.request.sampling.prompt_logprobs or 0
            pairs = zip(logits, following, strict=True)
            generation.choice.score_prompt([token_logprob(row, token, wanted) for row, token in pairs])

    def _deliver(self, picked: list[Picked]) -> None:
        for generation, token in picked:
            if isinstance(token, Exception):
                self._scheduler.remove(generation)
                self._emit(generation, token)
                continue
            if not generation.choice.generated:
                self._prompt_tokens += len(generation.request.prompt)
            chunk = generation.advance(token, self._layers_and_heads)
            self._generated += 1
            if chunk.finish_reason is not None:
                self._scheduler.remove(generation)
            self._emit(generation, chunk)
