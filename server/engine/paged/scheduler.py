"""Which tokens go into the next forward pass, and who gets pages.

Policy. Running generations decode in every step. What is left of the step's token budget goes to facts being encoded
(at most half while prompts wait; those that nobody waits for last, a few tokens of them in a step with anything else)
and to prompts in order of arrival. A generation is admitted when all its facts are resident and its prompt fits; one
that waits for its facts lets others pass, as long as they leave it the pages it will need. When pages run out, the
youngest running generation gives up its own and starts over later; the oldest therefore always moves, and nothing waits
for ever. Pages for one fact of the greatest length are never given to generations, so an edit need not wait for them.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from kan.attention import Prefix, pages_for
from kan.knowledge.phi import Phi
from kan.page_pool import PagePool
from server.engine.bias import bias_of
from server.engine.paged.knowledge_cache import KnowledgeCache
from server.engine.paged.options import EngineOptions
from server.engine.paged.sequence import Encoding, Generation, Sequence, Stage, Waiter, prefix_of
from server.engine.protocol import FactTokens

BESIDE_OTHERS = 8
"""Tokens of facts that nobody waits for, in a step with something else: so few that it takes hardly longer for them."""
MAX_CONSIDERED = 64
"""Waiting generations that are looked at in one step."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `count` tokens of a sequence; their pages are allocated."""

    sequence: Sequence
    count: int


@dataclass(slots=True)
class Counters:
    page_hits: int = 0
    page_misses: int = 0
    preemptions: int = 0


class Scheduler:
    """Owned by the engine's thread."""

    def __init__(self, pool: PagePool, knowledge: KnowledgeCache, phi: Phi | None, options: EngineOptions) -> None:
        self._pool = pool
        self._knowledge = knowledge
        self._phi = phi
        self._options = options
        self._reserve = pages_for(options.max_fact_tokens)
        self.preamble = Prefix()
        self.preamble_tokens = 0
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.encodings: OrderedDict[str, Encoding] = OrderedDict()
        self.counters = Counters()
        self._in_flight: list[Sequence] = []
        """Encodings in the step that is running."""
        self._left: list[Encoding] = []
        """Encodings that somebody no longer waits for."""

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running or self.encodings)

    def submit(self, generation: Generation) -> None:
        generation.stage = Stage.WAITING
        self._knowledge.read(generation.fact_keys)
        self.waiting.append(generation)

    def encode(self, fact: FactTokens, waiter: Waiter, *, bulk: bool) -> None:
        """Call `waiter` once the fact's pages are resident or on disk."""
        self._knowledge.life.want(fact.key)
        if self._knowledge.available(fact.key):
            waiter(None)
        else:
            self._encoding(fact, bulk=bulk).waiters.append(waiter)

    def leave(self, key: str, waiter: Waiter) -> None:
        """Whoever waits by `waiter` has left; what nobody else waits for is not made."""
        encoding = self.encodings.get(key)
        if encoding is not None and waiter in encoding.waiters:
            encoding.waiters.remove(waiter)
            self._left.append(encoding)

    def remove(self, generation: Generation) -> None:
        """Finished, cancelled, abandoned: wherever it is, it holds nothing afterwards."""
        stage, generation.stage = generation.stage, Stage.ENDED
        if stage is Stage.RUNNING:
            self.running.remove(generation)
            generation.drop_pages(self._pool)
        elif stage is Stage.WAITING:
            self.waiting.remove(generation)
        if stage in (Stage.RUNNING, Stage.WAITING):
            self._knowledge.unread(generation.fact_keys)
            self._left += [self.encodings[key] for key in generation.fact_keys if key in self.encodings]

    def encoded(self, encoding: Encoding) -> None:
        """All tokens of the fact are computed: publish its pages."""
        del self.encodings[encoding.fact.key]
        self._pool.release(encoding.prefix.pages)
        self._knowledge.admit(encoding)
        for waiter in encoding.waiters:
            waiter(None)

    def discard_unwaited(self) -> None:
        """Drop what nobody waits for any more. Between steps only: what is being computed has pages being written."""
        for encoding in self._left:
            key = encoding.fact.key
            unwaited = not encoding.waiters and not self._knowledge.life.is_read(key)
            if unwaited and self.encodings.get(key) is encoding:
                self._discard(encoding)
        self._left.clear()

    def abandon_encodings(self, error: Exception) -> None:
        for encoding in list(self.encodings.values()):
            self._discard(encoding)
            for waiter in encoding.waiters:
                waiter(error)

    def _discard(self, encoding: Encoding) -> None:
        del self.encodings[encoding.fact.key]
        encoding.drop_pages(self._pool)
        self._knowledge.life.failed(encoding.fact.key)

    def schedule(self) -> list[Chunk]:
        """The next forward pass. Empty only if nothing can move before something else changes."""
        self.discard_unwaited()
        self._admit()
        decoding = [one for one in self.running if one.pending == 1]
        chunks = [Chunk(one, 1) for one in decoding if self._grow(one, 1)]
        chunks = [chunk for chunk in chunks if _still_runs(chunk.sequence)]
        budget = (self._options.busy_step_tokens if chunks else self._options.step_tokens) - len(chunks)
        prompts = [one for one in self.running if one.pending > 1]
        facts = self._take_facts(budget // 2 if prompts else budget, alone=not (chunks or prompts))
        chunks += facts
        chunks += self._take(prompts, budget - _rows(facts), self._grow)
        self._in_flight = [chunk.sequence for chunk in facts]
        return [chunk for chunk in chunks if _still_runs(chunk.sequence)]

    def schedule_edits(self) -> list[Chunk]:
        """Facts of small edits that arrived while a step is running, for a forward pass in its midst: all, if few."""
        arrived = [one for one in self.encodings.values() if not one.bulk and one not in self._in_flight]
        if sum(one.pending for one in arrived) > self._options.busy_step_tokens:
            return []
        return self._take(arrived, self._options.busy_step_tokens, self._start)

    def _take(self, sequences: Iterable[Sequence], budget: int, reserve: Callable[..., bool]) -> list[Chunk]:
        """Chunks of the sequences in order, within a budget of tokens and as pages allow."""
        chunks = []
        for sequence in list(sequences):
            count = min(budget, sequence.pending)
            if count < 1:
                break
            if reserve(sequence, count):
                chunks.append(Chunk(sequence, count))
                budget -= count
        return chunks

    def _grow(self, generation: Generation, count: int) -> bool:
        """Pages for the next `count` tokens, taken from younger generations if need be."""
        if generation.stage is not Stage.RUNNING:
            return False
        missing = generation.missing_pages(count)
        while missing and not self._knowledge.make_room(missing + self._kept_back()):
            youngest = self.running[-1]
            if youngest is generation:
                return False
            self._preempt(youngest)
        generation.pages += self._pool.allocate(missing, "context")
        return True

    def _kept_back(self) -> int:
        """Pages that generations must leave free. Those of facts under way count: they can soon be evicted."""
        return max(0, self._reserve - sum(len(one.pages) for one in self.encodings.values()))

    def _preempt(self, generation: Generation) -> None:
        self.running.remove(generation)
        generation.drop_pages(self._pool)
        generation.forget_attention()
        generation.stage = Stage.WAITING
        self.waiting.appendleft(generation)
        self.counters.preemptions += 1

    def _start(self, encoding: Encoding, count: int) -> bool:
        """Pages for a whole fact, from the reserve if need be; it never takes them from a generation."""
        if encoding.pages:
            return True
        needed = pages_for(len(encoding.tokens))
        if not self._knowledge.make_room(needed):
            return False
        encoding.pages = self._pool.allocate(needed, "knowledge")
        encoding.prefix = self.preamble
        encoding.first_position = self.preamble_tokens
        self._pool.retain(self.preamble.pages)
        return True

    def _admit(self) -> None:
        """Admit whoever is ready, in order of arrival; those whose facts are on their way keep their claim on pages."""
        claimed = 0
        for generation in islice(list(self.waiting), MAX_CONSIDERED):
            if len(self.running) == self._options.max_running:
                return
            if not self._resident(generation):
                claimed += self._pages_of(generation)
                continue
            if not self._start_running(generation, claimed):
                return

    def _start_running(self, generation: Generation, claimed: int) -> bool:
        """False if pages are short: while others run, or are encoded, some will come free."""
        self._mount(generation)
        needed = pages_for(len(generation.tokens)) + self._kept_back() + claimed
        if not self._knowledge.make_room(needed) and (self.running or self.encodings):
            generation.drop_pages(self._pool)
            return False
        self.waiting.remove(generation)
        self.running.append(generation)
        generation.stage = Stage.RUNNING
        if generation.queue_seconds is None:
            generation.queue_seconds = time.monotonic() - generation.arrived
        return True

    def _pages_of(self, generation: Generation) -> int:
        """Pages that it will need besides those of its facts that are resident."""
        missing = [one.fact for one in generation.request.facts if one.fact.key not in self._knowledge]
        return pages_for(len(generation.tokens)) + sum(self._knowledge.form.pages(len(fact.tokens)) for fact in missing)

    def _resident(self, generation: Generation) -> bool:
        """True if every fact is in memory; otherwise what is missing is on its way."""
        facts = [mounted.fact for mounted in generation.request.facts]
        missing = [fact for fact in facts if fact.key not in self._knowledge]
        if not generation.mount_counted:
            generation.mount_counted = True
            self.counters.page_misses += len(missing)
            self.counters.page_hits += len(facts) - len(missing)
        for fact in facts:
            if fact.key in self._knowledge:
                self._knowledge.touch(fact.key)
        for fact in missing:
            if fact.key not in self.encodings and not self._knowledge.load(fact):
                self._encoding(fact)
        return all(fact.key in self._knowledge for fact in facts)

    def _mount(self, generation: Generation) -> None:
        """Lay the facts out before the context: all at the same position, the context after the longest."""
        mounted = generation.request.facts
        if not mounted:
            return
        facts = [one.fact for one in mounted]
        lengths = [len(fact.tokens) for fact in facts]
        phi = bias_of(self._phi, mounted)
        parts = [(list(self.preamble.pages), self.preamble_tokens)]
        parts += zip(self._knowledge.mount(facts), lengths, strict=True)
        self._pool.retain(self.preamble.pages)
        generation.prefix = prefix_of(parts, phi, self._knowledge.form.per_page)
        generation.first_position = self.preamble_tokens + max(lengths)

    def _encoding(self, fact: FactTokens, *, bulk: bool = False) -> Encoding:
        encoding = self.encodings.get(fact.key)
        if encoding is None:
            encoding = self.encodings[fact.key] = Encoding(list(fact.tokens), fact=fact, bulk=bulk)
            self._knowledge.life.making(fact.key)
        encoding.bulk &= bulk
        return encoding

    def can_wait(self, sequence: Sequence) -> bool:
        """Whether nobody waits for it: a fact of those that come last."""
        return isinstance(sequence, Encoding) and sequence.bulk and not self._knowledge.life.is_read(sequence.fact.key)

    def _take_facts(self, budget: int, *, alone: bool) -> list[Chunk]:
        """Those that nobody waits for last, and few. `alone`: there is nothing else in the step."""
        urgent: list[Encoding] = []
        patient: list[Encoding] = []
        for one in self.encodings.values():
            (patient if self.can_wait(one) else urgent).append(one)
        chunks = self._take(urgent, budget, self._start)
        most = self._options.busy_step_tokens if alone and not chunks else BESIDE_OTHERS
        return chunks + self._take(patient, min(budget - _rows(chunks), most), self._start)


def _rows(chunks: Iterable[Chunk]) -> int:
    return sum(chunk.count for chunk in chunks)


def _still_runs(sequence: Sequence) -> bool:
    return isinstance(sequence, Encoding) or (isinstance(sequence, Generation) and sequence.stage is Stage.RUNNING)
