"""Pages that nobody waits for yet: of facts that were imported or brought back, and of those that lost theirs.

What was asked for comes first, then the newest. A fact that is mounted before its turn has its pages made then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence
from functools import partial

from kb.publishing import Published
from kb.store import Store
from server.engine.protocol import Engine, FactTokens
from server.service.lanes import Lanes
from server.service.pages import FactPages

AT_ONCE = 8
"""Facts that the engine is given together."""
PAUSE_SECONDS = 0.2
"""Between two looks while there is nothing to make, or no room for it."""
FAILURE_PAUSE_SECONDS = 5.0
log = logging.getLogger("kalmagrove.knowledge")


class PageMaking:
    """What is to be made, as texts; any thread may add to it. One task makes it."""

    def __init__(self, store: Store, engine: Engine, pages: FactPages, lanes: Lanes) -> None:
        self._store = store
        self._engine = engine
        self._pages = pages
        self._lanes = lanes
        self._lock = threading.Lock()
        self._wanted: dict[str, None] = {}
        """In order: the last one is made first."""
        store.subscribe(self._follow)

    def __len__(self) -> int:
        """Facts that wait."""
        return len(self._wanted)

    @property
    def share(self) -> float:
        """Of the facts' texts those whose pages are made; 1 if there are no facts."""
        texts = len(self._store.texts)
        return min(1.0, self._engine.stats().facts_with_pages / texts) if texts else 1.0

    def want_missing(self) -> None:
        """Every fact that has no pages, for the start: the newest before the others, but after what was wanted since.
        Blocks."""
        facts = sorted(self._store.snapshot.by_key.values(), key=lambda fact: fact.version)
        missing = dict.fromkeys(fact.text for fact in facts if not self._pages.made(fact.text))
        with self._lock:
            self._wanted = missing | self._wanted

    def want_first(self, texts: Sequence[str]) -> None:
        """Somebody asked for these, the first most of all."""
        with self._lock:
            _remove(self._wanted, texts)
            self._wanted.update(dict.fromkeys(reversed(texts)))

    async def keep_making(self) -> None:
        """Until cancelled. A failure is logged, and what failed is left to its first mount."""
        while True:
            texts = self._next() if self._engine.has_room() else []
            if not texts:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                await self._make(texts)
            except Exception:
                log.warning("pages could not be made in the background", exc_info=True)
                await asyncio.sleep(FAILURE_PAUSE_SECONDS)

    def _follow(self, published: Published) -> None:
        with self._lock:
            _remove(self._wanted, (*published.gone_texts, *published.set_texts))
            self._wanted.update(dict.fromkeys(published.set_texts))

    def _next(self) -> list[str]:
        with self._lock:
            return [self._wanted.popitem()[0] for _ in range(min(AT_ONCE, len(self._wanted)))]

    async def _make(self, texts: list[str]) -> None:
        facts = await self._lanes.bulk_edits.run(partial(self._missing, texts))
        try:
            await self._engine.encode(facts, bulk=True)
        finally:
            # Whoever was deleted before the engine knew of it was forgotten too soon.
            gone = [self._pages.key(text) for text in texts if text not in self._store.texts]
            if gone:
                self._engine.forget(gone)

    def _missing(self, texts: list[str]) -> list[FactTokens]:
        return [self._pages.tokens(text) for text in texts if text in self._store.texts and not self._pages.made(text)]


def _remove(wanted: dict[str, None], texts: Iterable[str]) -> None:
    for text in texts:
        wanted.pop(text, None)
