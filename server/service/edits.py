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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from kb.documents import Outdated
from kb.edit import Commit, Prepared
from kb.facts import Change, Upsert
from kb.index.segment import Vectors
from kb.snapshot import Snapshot
from kb.store import Store
from server.engine.protocol import Engine
from server.metrics import Metrics
from server.service.account import Account
from server.service.admission import Admission, Bounds, Key
from server.service.deadline import in_time
from server.service.edit_checks import Check, Checked
from server.service.embedding import TEXTS_BETWEEN_STEPS
from server.service.lanes import Lane, Lanes
from server.service.pages import FactPages
from server.settings import Settings

SMALL_AT_ONCE = 4
PLANS = 4
"""So often an edit is planned, if what it is made from changes meanwhile."""
SLICES_AT_ONCE = 2

_END: Final = object()
_NOTHING: Final = Checked()
Encoding: TypeAlias = "asyncio.Task[None]"
Require: TypeAlias = Callable[[Snapshot], None]
logger = logging.getLogger("kalmagrove.knowledge")


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit that is durable and visible."""

    version: int
    upserted: int
    deleted: int
    visible_ms: float


@dataclass(frozen=True, slots=True)
class Planned:
    """Changes that follow from what the knowledge is now."""

    changes: Sequence[Change]
    require: Require
    """Asked in the writer's turn: raises Outdated if that has changed."""
    most: int
    """Changes that it may have."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One edit that was asked for: by whom, when, and what it did so far."""

    key: Key
    account: Account
    started: float = field(default_factory=time.perf_counter)


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
        weights: Mapping[str, float],
        *,
        shared: bool,
    ) -> None:
        """`shared`: several callers are told apart, and none may fill the queue alone."""
        self._store = store
        self._engine = engine
        self._pages = pages
        self._check = Check(store, pages, settings.max_fact_tokens)
        self._lanes = lanes
        self._metrics = metrics
        self._settings = settings
        most = settings.max_pending_edits
        of_one = math.ceil(most * settings.key_share) if shared else most
        self._pending = Admission("edits", Bounds(slots=most, waiting=0, per_caller=of_one, shared=shared), weights)
        self._small = Admission("edits", Bounds(slots=SMALL_AT_ONCE, waiting=most, per_caller=most), weights)
        self._slices = Admission("edits", Bounds(slots=SLICES_AT_ONCE, waiting=most, per_caller=most), weights)
        self._commits: set[asyncio.Task[Commit]] = set()

    async def apply(self, caller: str, changes: Sequence[Change], account: Account | None = None) -> Edited:
        """All changes or none."""
        errand = Errand(Key(caller, changes[0].namespace if changes else ""), account or Account())
        small = self._is_small(changes)
        with self._pending.join(errand.key):
            lane = self._lanes.edits if small else self._lanes.bulk_edits
            async with self._in_time():
                checked = await lane.run(partial(self._check, changes))
            return await (self._apply_small if small else self._apply_bulk)(errand, checked)

    async def apply_planned(
        self,
        caller: str,
        namespace: str,
        plan: Callable[[], Planned],
        account: Account | None = None,
        *,
        steps: Iterable[None] = (),
    ) -> Edited:
        """The changes that `plan` finds after all `steps`, all or none; both block. It is asked again when what it was
        made from has changed. Raises Outdated if that happens again and again. No change at all makes no version."""
        errand = Errand(Key(caller, namespace), account or Account())
        with self._pending.join(errand.key):
            await self._through(iter(steps), errand)
            for attempt in range(1, PLANS + 1):
                async with self._slices.enter(errand.key), self._in_time():
                    planned = await self._lanes.bulk_edits.run(plan)
                    if not planned.changes:
                        return self._nothing(errand)
                    checked = await self._lanes.bulk_edits.run(partial(self._check, planned.changes, planned.most))
                try:
                    apply = self._apply_small if self._is_small(planned.changes) else self._apply_bulk
                    return await apply(errand, checked, planned.require)
                except Outdated:
                    if attempt == PLANS:
                        raise
        raise AssertionError("the last attempt returns or raises")

    async def rollback(
        self, caller: str, version: int, account: Account | None = None, namespaces: Collection[str] | None = None
    ) -> Edited:
        """Facts (of these namespaces) as they were at `version`, as a new version. Their pages are made when they are
        first mounted."""
        errand = Errand(Key(caller), account or Account())
        with self._pending.join(errand.key):
            async with self._slices.enter(errand.key):
                commit = partial(self._store.rollback, version, namespaces)
                return await self._commit(errand, self._lanes.bulk_edits, commit)

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

    async def _through(self, steps: Iterator[None], errand: Errand) -> None:
        more: object = None
        while more is not _END:
            async with self._slices.enter(errand.key), self._in_time():
                more = await self._lanes.bulk_edits.run(lambda: next(steps, _END))

    def _is_small(self, changes: Sequence[Change]) -> bool:
        most = self._store.limits.batch_changes
        return sum(isinstance(change, Upsert) for change in changes) <= TEXTS_BETWEEN_STEPS and len(changes) <= most

    def _nothing(self, errand: Errand) -> Edited:
        version = self._store.snapshot.version
        errand.account.knowledge_version = version
        return Edited(version, 0, 0, round((time.perf_counter() - errand.started) * 1000, 3))

    async def _apply_small(self, errand: Errand, edit: Checked, require: Require | None = None) -> Edited:
        with self._small.join(errand.key) as (place,):
            with self._forgetting(edit):
                async with self._in_time():
                    with errand.account.during("queue"):
                        await place.turn()
                    prepared, encoding = await self._ready(errand, edit)
            commit = self._committing(prepared, require)
            return await self._commit(errand, self._lanes.commits, commit, edit, encoding)

    async def _apply_bulk(self, errand: Errand, edit: Checked, require: Require | None = None) -> Edited:
        vectors: dict[str, Vectors] = {}
        for some in edit.slices():
            async with self._slices.enter(errand.key), self._in_time():
                with errand.account.during("embed"):
                    prepared = await self._lanes.bulk_edits.run(partial(self._store.prepare, some.changes))
                vectors |= prepared.vectors
        commit = self._committing(Prepared(edit.changes, vectors), require)
        return await self._commit(errand, self._lanes.bulk_edits, commit)

    def _committing(self, prepared: Prepared, require: Require | None) -> Callable[[], Commit]:
        commit = partial(self._store.commit, prepared)
        return commit if require is None else partial(commit, require=require)

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
        edit: Checked = _NOTHING,
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
