"""Facts on their way to disk: each recorded once, by vLLM, when it is first wanted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from server.engine.protocol import EngineUnavailable, FactTokens
from server.engine.vllm.pages import StagedPages
from server.engine.vllm.requests import Preamble, VllmRequest, recording

AT_ONCE = 32
"""Facts that are with vLLM at the same time; more wait here."""
Run = Callable[[VllmRequest, str], Awaitable[None]]
"""Runs a request of this name to its end. Raises EngineUnavailable."""


class FactShelf:
    """What is on disk and what will be. Owned by the event loop."""

    def __init__(self, pages: StagedPages, preamble: Preamble, run: Run) -> None:
        self._pages = pages
        self._preamble = preamble
        self._run = run
        self._recordings: dict[str, asyncio.Task[None]] = {}
        self._forgotten: set[str] = set()
        """Of those: deleted meanwhile, so their content is for those who already wait for it."""
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.encoded = self.hits = self.misses = 0
        """Facts recorded so far; mounted ones that were there, and that were not."""

    @property
    def under_way(self) -> int:
        """Facts being recorded, or waiting for it."""
        return len(self._recordings)

    async def ensure(self, facts: Sequence[FactTokens]) -> None:
        """Return once all facts, and the preamble, are on disk. Raises EngineUnavailable."""
        wanted = [self._preamble.as_fact, *facts]
        for fact in wanted:
            self._forgotten.discard(fact.key)
            self._pages.keep(fact.key)
        tasks = {fact.key: self._recording(fact) for fact in wanted if fact.key not in self._pages}
        # Shielded: others may wait for the same facts.
        await asyncio.gather(*map(asyncio.shield, tasks.values()))

    async def make_mountable(self, facts: Sequence[FactTokens]) -> None:
        """The same for facts of a request; they count as used now."""
        missing = [fact for fact in facts if not self._pages.touch(fact.key)]
        self.misses += len(missing)
        self.hits += len(facts) - len(missing)
        if missing or not self._pages.touch(self._preamble.key):
            await self.ensure(missing)

    def hold(self, facts: Sequence[FactTokens]) -> tuple[str, ...]:
        """Keep the files of facts, and the preamble's, for a reader. Returns what `let_go` wants."""
        keys = (self._preamble.key, *(fact.key for fact in facts)) if facts else ()
        self._pages.retain(keys)
        return keys

    def let_go(self, keys: Sequence[str]) -> None:
        self._pages.release(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """Files stay until their last reader ends; facts on their way to disk go when they arrive."""
        for key in keys:
            if key in self._recordings:
                self._forgotten.add(key)
            self._pages.remove(key)

    def discard_damaged(self, keys: Sequence[str]) -> None:
        """A worker could not read them all: those that are not whole are recorded anew when next wanted."""
        self._pages.discard_damaged(keys)

    def _recording(self, fact: FactTokens) -> asyncio.Task[None]:
        task = self._recordings.get(fact.key)
        if task is None:
            task = self._recordings[fact.key] = asyncio.create_task(self._record(fact))
            task.add_done_callback(partial(self._recorded, fact.key))
        return task

    async def _record(self, fact: FactTokens) -> None:
        is_preamble = fact.key == self._preamble.key
        name = f"encode-{uuid.uuid4().hex}"
        async with self._gate:
            await self._run(recording(fact, None if is_preamble else self._preamble, name), name)
        try:
            self._pages.adopt(fact.key)
        except OSError as error:
            raise EngineUnavailable(f"a fact could not be encoded: {error}") from error
        if fact.key in self._forgotten:
            self._pages.remove(fact.key)
        self.encoded += not is_preamble

    def _recorded(self, key: str, task: asyncio.Task[None]) -> None:
        del self._recordings[key]
        self._forgotten.discard(key)
        if not task.cancelled():
            task.exception()  # whoever waits is told; if nobody does any more, that is no cause for a warning
