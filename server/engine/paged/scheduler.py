"""Which tokens go into the next forward pass, and who gets pages.

Policy. Running generations decode in every step. What is left of the step's token budget goes to facts being encoded
(at most half while prompts wait) and to prompts in order of arrival. A generation is admitted when all its facts are
resident and its prompt fits. When pages run out, the youngest running generation gives up its own and starts over
later; the oldest therefore always moves, and nothing waits for ever. Pages for one fact of the greatest length are
never given to generations, so an edit need not wait for them.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kan.knowledge.phi import Phi
from kan.page_pool import PagePool
from server.engine.bias import bias_of
from server.engine.paged.knowledge_cache import KnowledgeCache
from server.engine.paged.options import EngineOptions
from server.engine.paged.sequence import Encoding, Generation, Prefix, Sequence, pages_for, prefix_of
from server.engine.protocol import FactTokens


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

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running or self.encodings)

    def submit(self, generation: Generation) -> None:
        self.waiting.append(generation)

    def encode(self, fact: FactTokens, done: Callable[[Exception | None], None]) -> None:
        """Call `done` once the fact's pages are resident or on disk."""
        if fact.key in self._knowledge or self._knowledge.is_stored(fact.key):
            done(None)
        else:
            encoding = self._encoding(fact)
            encoding.done.append(done)
            encoding.forgotten = False

    def forget(self, key: str) -> None:
        """The fact is gone: drop its pages here and on disk. Readers keep theirs; so do those who wait for them."""
        self._knowledge.forget(key)
        if key in self.encodings:
            self.encodings[key].forgotten = True

    def remove(self, generation: Generation) -> None:
        """Finished, cancelled, expired: wherever it is, it holds nothing afterwards."""
        if generation in self.running:
            self.running.remove(generation)
            generation.drop_pages(self._pool)
        elif generation in self.waiting:
            self.waiting.remove(generation)

    def encoded(self, encoding: Encoding) -> None:
        """All tokens of the fact are computed: publish its pages."""
        del self.encodings[encoding.fact.key]
        self._pool.release(encoding.prefix.pages)
        if encoding.forgotten and not self._awaited(encoding.fact.key):
            self._pool.release(encoding.pages)
        else:
            self._knowledge.admit(encoding)
        for done in encoding.done:
            done(None)

    def _awaited(self, key: str) -> bool:
        return any(key == mounted.fact.key for one in self.waiting for mounted in one.request.facts)

    def abandon_encodings(self, error: Exception) -> None:
        for encoding in self.encodings.values():
            encoding.drop_pages(self._pool)
            for done in encoding.done:
                done(error)
        self.encodings.clear()

    def expired(self, now: float) -> list[Generation]:
        everyone = [*self.running, *self.waiting]
        return [one for one in everyone if one.request.deadline is not None and one.request.deadline <= now]

    def schedule(self) -> list[Chunk]:
        """The next forward pass. Empty only if nothing can move before something else changes."""
        self._admit()
        decoding = [one for one in self.running if one.pending == 1]
        chunks = [Chunk(one, 1) for one in decoding if one in self.running and self._grow(one, 1)]
        chunks = [chunk for chunk in chunks if chunk.sequence in self.running]
        budget = (self._options.busy_step_tokens if chunks else self._options.step_tokens) - len(chunks)
        prompts = [one for one in self.running if one.pending > 1]
        for_facts = budget // 2 if prompts else budget
        facts = self._take(self.encodings.values(), for_facts, self._start)
        chunks += facts
        chunks += self._take(prompts, budget - sum(chunk.count for chunk in facts), self._grow)
        self._in_flight = [chunk.sequence for chunk in facts]
        return [chunk for chunk in chunks if isinstance(chunk.sequence, Encoding) or chunk.sequence in self.running]

    def schedule_edits(self) -> list[Chunk]:
        """Facts that arrived while a step is running, for a forward pass in its midst: all of them, if they are few.

        A large import waits its turn in the steps themselves.
        """
        arrived = [one for one in self.encodings.values() if one not in self._in_flight]
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
        if generation not in self.running:
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
        while self.waiting and len(self.running) < self._options.max_running:
            generation = self.waiting[0]
            if not self._resident(generation):
                return
            self._mount(generation)
            needed = pages_for(len(generation.tokens)) + self._kept_back()
            if not self._knowledge.make_room(needed) and (self.running or self.encodings):
                generation.drop_pages(self._pool)
                return
            self.waiting.popleft()
            self.running.append(generation)
            if generation.queued is None:
                generation.queued = time.monotonic() - generation.arrived

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
        generation.prefix = prefix_of(parts, phi)
        generation.first_position = self.preamble_tokens + max(lengths)

    def _encoding(self, fact: FactTokens) -> Encoding:
        if fact.key not in self.encodings:
            self.encodings[fact.key] = Encoding(list(fact.tokens), fact=fact)
        return self.encodings[fact.key]
