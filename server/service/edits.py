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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from kb.conditions import conflicts
from kb.documents import Outdated
from kb.edit import Commit, Prepared
from kb.errors import InvalidChange, Problem, VersionConflict
from kb.facts import Change, Upsert
from kb.index.segment import Vectors
from kb.metadata import has_surrogate
from kb.snapshot import Snapshot
from kb.store import Store
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
PLANS = 4
"""So often an edit is planned, if what it is made from changes meanwhile."""
SLICES_AT_ONCE = 2

_END: Final = object()
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
        weights: Mapping[str, float],
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

    def _check(self, changes: Sequence[Change], most: int | None = None) -> Checked:
        """Before any work: a refused edit must cost nothing. Blocks. `most`: changes, if not the store's limit."""
        self._store.require_log()
        limits = self._store.limits
        try:
            checked = validate_batch(changes, limits if most is None else replace(limits, batch_changes=most))
        except InvalidChange as error:
            raise self._with_tokens(error, changes) from error
        found = conflicts(checked, self._store.snapshot, time.time())
        if passed := [one for one in found if one.final]:  # the others may yet be what is expected
            raise VersionConflict(passed)
        tokens = [self._pages.tokens(change.text) if isinstance(change, Upsert) else None for change in checked]
        problems = [problem for index, fact in enumerate(tokens) if fact for problem in self._too_long(index, fact)]
        if problems:
            raise InvalidChange(problems)
        return Checked(checked, tuple(tokens))

    def _too_long(self, index: int, fact: FactTokens) -> Iterator[Problem]:
        if len(fact.tokens) > self._settings.max_fact_tokens:
            yield Problem(index, "text", self._bound(fact))

    def _bound(self, fact: FactTokens) -> str:
        most = self._settings.max_fact_tokens
        return f"has {len(fact.tokens)} tokens; at most {most} are allowed (?split=true makes several facts of it)"

    def _with_tokens(self, error: InvalidChange, changes: Sequence[Change]) -> InvalidChange:
        """Says of the first text that is too long in characters how many tokens it has: the bound that matters."""
        problems = list(error.problems)
        longest = self._store.limits.text_chars
        for place, problem in enumerate(problems):
            change = changes[problem.index] if problem.index < len(changes) else None
            if problem.field == "text" and isinstance(change, Upsert) and _is_long(change.text, longest):
                message = f"{problem.message}; it {self._bound(self._pages.tokens(change.text))}"
                problems[place] = replace(problem, message=message)
                break
        return InvalidChange(problems)

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


def _is_long(text: object, longest: int) -> bool:
    """Whether it is too long, and can be split into tokens at all."""
    return isinstance(text, str) and len(text) > longest and bool(text.strip()) and not has_surrogate(text)


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of a failure, and then it is none."""
    if not task.cancelled():
        task.exception()
