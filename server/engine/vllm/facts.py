"""Facts on their way to disk: each recorded once, by vLLM, when it is first wanted."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from server.engine.pages.files import PageFiles
from server.engine.protocol import EngineUnavailable, FactTokens
from server.engine.vllm.requests import Preamble, VllmRequest, recording

AT_ONCE = 32
"""Facts that are with vLLM at the same time; more wait here."""
BULK_AT_ONCE = 8
"""The same for facts of bulk edits: what comes meanwhile need not wait for them."""
Run = Callable[[VllmRequest, str], Awaitable[None]]
"""Runs a request of this name to its end. Raises EngineUnavailable."""


class FactShelf:
    """What is on disk and what will be. Owned by the event loop."""

    def __init__(self, files: PageFiles, preamble: Preamble, run: Run) -> None:
        self._files = files
        self._life = files.life
        self._preamble = preamble
        self._run = run
        self._recordings: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        """Of those: already with vLLM, whose workers will write the file."""
        self._waiters: Counter[str] = Counter()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._bulk_gate = asyncio.Semaphore(BULK_AT_ONCE)
        self.encoded = self.hits = self.misses = 0
        """Facts recorded so far; mounted ones that were there, and that were not."""

    @property
    def under_way(self) -> int:
        """Facts being recorded, or waiting for it."""
        return len(self._recordings)

    async def ensure(self, facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        """Return once all facts, and the preamble, are on disk. Raises EngineUnavailable.

        If the caller is cancelled, what nobody else waits for is not begun.
        """
        wanted = {fact.key: fact for fact in (self._preamble.as_fact, *facts)}
        for key in wanted:
            self._life.want(key)
        missing = [fact for key, fact in wanted.items() if not self._life.is_stored(key)]
        self._waiters.update(fact.key for fact in missing)
        try:
            # Shielded: others may wait for the same facts.
            await asyncio.gather(*[asyncio.shield(self._recording(fact, bulk)) for fact in missing])
        finally:
            for fact in missing:
                self._leave(fact.key)

    async def make_mountable(self, facts: Sequence[FactTokens]) -> None:
        """The same for facts of a request that holds them; they count as used now. What is forgotten stays so."""
        missing = [fact for fact in facts if not self._life.touch(fact.key)]
        self.misses += len(missing)
        self.hits += len(facts) - len(missing)
        if not self._life.touch(self._preamble.key):
            missing.append(self._preamble.as_fact)
        await asyncio.gather(*[asyncio.shield(self._recording(fact, bulk=False)) for fact in missing])

    def hold(self, facts: Sequence[FactTokens]) -> tuple[str, ...]:
        """Keep the files of facts, and the preamble's, for a reader. Returns what `let_go` wants."""
        keys = (self._preamble.key, *(fact.key for fact in facts)) if facts else ()
        self._life.read(keys)
        return keys

    def let_go(self, keys: Sequence[str]) -> None:
        """The reader is done."""
        self._life.unread(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """Files stay until their last reader ends; facts on their way to disk go when they arrive."""
        self._life.forget(keys)

    def reconcile(self, held: Collection[str]) -> None:
        """Forget every fact whose key is not among `held`, unless another process may hold it."""
        if not self._files.alone():
            return
        kept = {self._preamble.key, *held}
        self._life.forget_all_but(kept)
        self._files.reconcile(kept)

    def discard_damaged(self, keys: Sequence[str]) -> None:
        """A worker could not read them all: those that are not whole are recorded anew when next wanted."""
        self._files.discard_damaged(keys)

    def _recording(self, fact: FactTokens, bulk: bool) -> asyncio.Task[None]:
        task = self._recordings.get(fact.key)
        if task is None:
            self._life.making(fact.key)
            self._files.expect(fact.key)
            task = self._recordings[fact.key] = asyncio.create_task(self._record(fact, bulk))
            task.add_done_callback(partial(self._recorded, fact.key))
        return task

    async def _record(self, fact: FactTokens, bulk: bool) -> None:
        if bulk:
            async with self._bulk_gate:
                return await self._record_now(fact)
        return await self._record_now(fact)

    async def _record_now(self, fact: FactTokens) -> None:
        is_preamble = fact.key == self._preamble.key
        name = f"encode-{uuid.uuid4().hex}"
        async with self._gate:
            self._begun.add(fact.key)
            await self._run(recording(fact, None if is_preamble else self._preamble, name), name)
        try:
            self._files.adopt(fact.key)
        except OSError as error:
            raise EngineUnavailable("a fact could not be encoded") from error
        self.encoded += not is_preamble

    def _leave(self, key: str) -> None:
        self._waiters[key] -= 1
        if self._waiters[key] > 0:
            return
        del self._waiters[key]
        task = self._recordings.get(key)
        if task is not None and key not in self._begun and not self._life.is_read(key):
            task.cancel()

    def _recorded(self, key: str, task: asyncio.Task[None]) -> None:
        del self._recordings[key]
        self._begun.discard(key)
        self._life.failed(key)  # does nothing if it was adopted
        if not task.cancelled():
            task.exception()  # whoever waits is told; if nobody does any more, that is no cause for a warning
