"""Change facts.

A large edit is embedded in slices and then committed; its pages are made in the background (`page_making.py`), or when
they are first mounted. A small one is encoded while it is committed: what a request finds before its pages are made
waits for them. The reply to either means: durable, and seen by every request admitted from now on; to a small one,
encoded as well.

Small edits never wait for large ones, but for a commit: queue, threads and turn in the engine are their own. Until its
commit begins, whatever ends an edit (the client leaving, its deadline, an error) ends it wholly; from then on nothing
does, and it is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from kb.conditions import conflicts
from kb.errors import InvalidChange, Problem, VersionConflict
from kb.facts import Change, Upsert
from kb.index.segment import Vectors
from kb.store import Commit, Prepared, Store
from kb.validation import validate_batch
from server.engine.protocol import Engine, FactTokens
from server.metrics import Metrics
from server.service.account import Account
from server.service.admission import Admission, Bounds, Key
from server.service.deadline import in_time
from server.service.embedding import TEXTS_BETWEEN_STEPS
from server.service.lanes import Lane, Lanes
from server.service.pages import FactPages
from server.settings import Settings

SLICE_FACTS = 32
"""Of a large edit. Others get their turn in between."""
SMALL_AT_ONCE = 4
SLICES_AT_ONCE = 2

Encoding: TypeAlias = "asyncio.Task[None]"
logger = logging.getLogger("kalmagrove.knowledge")


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit that is durable and visible."""

    version: int
    upserted: int
    deleted: int
    visible_ms: float


@dataclass(frozen=True, slots=True)
class Errand:
    """One edit that was asked for: by whom, when, and what it did so far."""

    key: Key
    account: Account
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Checked:
    """Valid changes, or some of them, and the facts to encode."""

    changes: tuple[Change, ...] = ()
    tokens: tuple[FactTokens | None, ...] = ()
    """One per change; None: nothing to encode."""

    @property
    def facts(self) -> list[FactTokens]:
        """What there is to encode."""
        return [fact for fact in self.tokens if fact is not None]

    def slices(self) -> Iterator[Checked]:
        """In the same order, SLICE_FACTS at most in each."""
        for start in range(0, len(self.changes), SLICE_FACTS):
            some = slice(start, start + SLICE_FACTS)
            yield Checked(self.changes[some], self.tokens[some])


class Edits:
    """Belongs to one event loop. Methods raise KnowledgeError, EngineError and ServiceError."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        pages: FactPages,
        lanes: Lanes,
        metrics: Metrics,
        settings: Settings,
        *,
        shared: bool,
    ) -> None:
        """`shared`: several callers are told apart, and none may fill the queue alone."""
        self._store = store
        self._engine = engine
        self._pages = pages
        self._lanes = lanes
        self._metrics = metrics
        self._settings = settings
        most, weights = settings.max_pending_edits, settings.key_weights
        of_one = math.ceil(most * settings.key_share) if shared else most
        self._pending = Admission("edits", Bounds(slots=most, waiting=0, per_caller=of_one, shared=shared), weights)
        self._small = Admission("edits", Bounds(slots=SMALL_AT_ONCE, waiting=most, per_caller=most), weights)
        self._slices = Admission("edits", Bounds(slots=SLICES_AT_ONCE, waiting=most, per_caller=most), weights)
        self._commits: set[asyncio.Task[Commit]] = set()

    async def apply(self, caller: str, changes: Sequence[Change], account: Account | None = None) -> Edited:
        """All changes or none."""
        errand = Errand(Key(caller, changes[0].namespace if changes else ""), account or Account())
        small = sum(isinstance(change, Upsert) for change in changes) <= TEXTS_BETWEEN_STEPS
        with self._pending.join(errand.key):
            lane = self._lanes.edits if small else self._lanes.bulk_edits
            async with self._in_time():
                checked = await lane.run(partial(self._check, changes))
            return await (self._apply_small if small else self._apply_bulk)(errand, checked)

    async def rollback(self, caller: str, version: int, account: Account | None = None) -> Edited:
        """Facts as they were at `version`, as a new version. Their pages are made when they are first mounted."""
        errand = Errand(Key(caller), account or Account())
        with self._pending.join(errand.key):
            async with self._slices.enter(errand.key):
                return await self._commit(errand, self._lanes.bulk_edits, partial(self._store.rollback, version))

    async def sweep(self) -> None:
        """Remove expired facts for good; a failure is logged and tried again next time."""
        try:
            await self._lanes.commits.run(lambda: self._store.sweep_expired(time.time()))
        except Exception:
            self._metrics.sweep_failures.inc()
            logger.exception("expired facts could not be removed")

    async def keep_sweeping(self, interval: float) -> None:
        """Until cancelled; seconds."""
        while True:
            await asyncio.sleep(interval)
            await self.sweep()

    async def finish(self) -> None:
        """Wait for the commits under way."""
        await asyncio.gather(*self._commits, return_exceptions=True)

    async def _apply_small(self, errand: Errand, edit: Checked) -> Edited:
        with self._small.join(errand.key) as (place,):
            with self._forgetting(edit):
                async with self._in_time():
                    with errand.account.during("queue"):
                        await place.turn()
                    prepared, encoding = await self._ready(errand, edit)
            commit = partial(self._store.commit, prepared)
            return await self._commit(errand, self._lanes.commits, commit, edit, encoding)

    async def _apply_bulk(self, errand: Errand, edit: Checked) -> Edited:
        vectors: dict[str, Vectors] = {}
        for some in edit.slices():
            async with self._slices.enter(errand.key), self._in_time():
                with errand.account.during("embed"):
                    prepared = await self._lanes.bulk_edits.run(partial(self._store.prepare, some.changes))
                vectors |= prepared.vectors
        commit = partial(self._store.commit, Prepared(edit.changes, vectors))
        return await self._commit(errand, self._lanes.bulk_edits, commit)

    def _check(self, changes: Sequence[Change]) -> Checked:
        """Before any work: a refused edit must cost nothing. Blocks."""
        self._store.require_log()
        checked = validate_batch(changes, self._store.limits)
        found = conflicts(checked, self._store.snapshot, time.time())
        if passed := [one for one in found if one.final]:  # the others may yet be what is expected
            raise VersionConflict(passed)
        tokens = [self._pages.tokens(change.text) if isinstance(change, Upsert) else None for change in checked]
        problems = [problem for index, fact in enumerate(tokens) if fact for problem in self._too_long(index, fact)]
        if problems:
            raise InvalidChange(problems)
        return Checked(checked, tuple(tokens))

    def _too_long(self, index: int, fact: FactTokens) -> Iterator[Problem]:
        length, most = len(fact.tokens), self._settings.max_fact_tokens
        if length > most:
            yield Problem(index, "text", f"has {length} tokens; at most {most} are allowed")

    async def _ready(self, errand: Errand, edit: Checked) -> tuple[Prepared, Encoding]:
        """Embedded, and on its way to be encoded. If the embedding ends early, so does the encoding."""
        began = time.monotonic()
        encoding = asyncio.create_task(self._engine.encode(edit.facts))
        encoding.add_done_callback(_seen)
        if edit.facts:
            encoding.add_done_callback(lambda _: errand.account.spent("encode", began))
        try:
            with errand.account.during("embed"):
                embed = partial(self._store.prepare, edit.changes)
                prepared = await (self._engine.run(embed) if edit.facts else self._lanes.edits.run(embed))
            if encoding.done():
                await encoding
        except BaseException:
            encoding.cancel()
            raise
        return prepared, encoding

    async def _commit(
        self,
        errand: Errand,
        lane: Lane,
        commit: Callable[[], Commit],
        edit: Checked = Checked(),
        encoding: Encoding | None = None,
    ) -> Edited:
        """Shielded: once the writer has begun, a client that leaves must not keep the rest from happening."""
        task = asyncio.create_task(self._commit_whole(errand, lane, commit, edit, encoding))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        task.add_done_callback(_seen)
        done = await asyncio.shield(task)
        errand.account.knowledge_version = done.version
        seconds = time.perf_counter() - errand.started
        size = "small" if lane is self._lanes.commits else "large"
        self._metrics.edit_visible_seconds.labels(size).observe(seconds)
        return Edited(done.version, done.upserted, done.deleted, round(seconds * 1000, 3))

    async def _commit_whole(
        self, errand: Errand, lane: Lane, commit: Callable[[], Commit], edit: Checked, encoding: Encoding | None
    ) -> Commit:
        with self._forgetting(edit), errand.account.during("commit"):
            done = await lane.run(commit)
        if encoding is not None:
            await self._settled(encoding)
        return done

    async def _settled(self, encoding: Encoding) -> None:
        """Wait for the pages of an edit that is already durable and visible: whatever happens to them, it stays done.

        Pages that could not be made now are made when the fact is first mounted, like those of a fact long unused.
        """
        try:
            async with self._in_time():
                await encoding
        except Exception:
            logger.warning("the pages of an edit will be made when they are first mounted", exc_info=True)

    @contextmanager
    def _forgetting(self, edit: Checked) -> Iterator[None]:
        """An edit that ends here leaves no pages behind."""
        try:
            yield
        except BaseException:
            self._pages.forget_refused([change for change in edit.changes if isinstance(change, Upsert)])
            raise

    def _in_time(self) -> AbstractAsyncContextManager[None]:
        """For each thing that an edit waits for."""
        return in_time(time.monotonic() + self._settings.request_timeout_s)


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of a failure, and then it is none."""
    if not task.cancelled():
        task.exception()
