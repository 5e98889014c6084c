"""The knowledge store: one writer, many readers, no reader lock.

An edit is validated and embedded without a lock, appended to the durable log, noted in the head marker, and
published by swapping one reference; only then does the caller learn its version.

A log in PostgreSQL is shared: what others append is published as well, in the log's order (`kb/following.py`). An edit
then goes through if nothing has come between; else what came is taken in, and the edit looks at the facts anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from kb.conditions import conflicts
from kb.encoder.embeddings import EmbeddingCache
from kb.encoder.protocol import Encoder
from kb.errors import (
    FactNotFound,
    KnowledgeError,
    StoreClosed,
    StoreCorrupt,
    StoreUnavailable,
    UnknownVersion,
    VersionConflict,
    WriteFailed,
)
from kb.facts import Change, Delete, Limits, Upsert
from kb.following import Follower, LogState
from kb.index.compaction import Compactor
from kb.index.part import Part
from kb.index.segment import Vectors
from kb.index.stored import SegmentStore
from kb.loading import Loader, Progress, check_head, open_marker, open_segments
from kb.log.batch import GENESIS, Batch, Entry
from kb.log.difference import Differences, differences
from kb.log.fact_log import FactLog, HeadMoved
from kb.log.history import FactVersion, History, LogEntry
from kb.log.location import Location, StoreLock
from kb.log.marker import Head, HeadMarker
from kb.log.opening import open_log
from kb.log.postgres import PostgresLog
from kb.log.state import state_of, state_path
from kb.publishing import Published, Subscriber, Subscribers
from kb.replay import TextCounts, Transition, changes_towards, replay, successor
from kb.saving import StateSaver
from kb.snapshot import Snapshot
from kb.validation import validate_batch

HURRIED_ATTEMPTS = 3
"""At an edit of a shared log, before others are kept from appending meanwhile."""
POLL_SECONDS = 1.0
Plan: TypeAlias = Callable[[], tuple[Sequence[Change], Mapping[str, Vectors]]]
"""What an edit changes, given what is published now, and vectors of the texts."""
Require: TypeAlias = Callable[[Snapshot], None]
"""What must hold of the snapshot before an edit: raises if it does not."""


def _anything(_: Snapshot) -> None:
    """Whatever holds."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A validated batch with its vectors. Committing it is all that is left."""

    changes: tuple[Change, ...]
    """Every upsert has its id."""
    vectors: Mapping[str, Vectors] = field(repr=False)
    """float32 [dimension] of each upserted text."""


@dataclass(frozen=True, slots=True)
class Commit:
    """An edit that is durable and visible."""

    version: int
    upserted: int
    deleted: int


class Store:
    """Open it with `Store.open`. Every method is thread-safe."""

    snapshot: Snapshot
    """The newest published state; reading the attribute takes no lock."""

    @classmethod
    def open(
        cls,
        path_or_url: Path | str,
        encoder: Encoder,
        *,
        limits: Limits | None = None,
        progress: Progress | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Store:
        """Opens a store directory (made when missing) or a database URL, checking everything that it reads: what
        holds now. Older history is checked when it is read, and by `kb.verification.verify`.

        `progress(done, total)` is called while the log is replayed and facts are indexed. A shared log is looked at
        every `poll_seconds`, and whenever it says that somebody has appended.

        Raises StoreLocked, StoreUnavailable, StoreCorrupt (naming the damaged file).
        """
        location = Location.of(path_or_url)
        with ExitStack() as cleanup:
            marker = None
            if location.database is not None:
                cleanup.callback(StoreLock(location.beside(".lock")).release)
                marker = open_marker(location)
                cleanup.callback(marker.close)
            log = open_log(location)
            cleanup.callback(log.close)
            cache = EmbeddingCache(log.engine, encoder)
            segments = open_segments(location, encoder)
            loader = Loader(log, state_of(location, log), cache, segments, progress)
            snapshot = loader.load(lambda head: check_head(head, marker, log, location))
            store = cls(snapshot, loader.head, log, marker, cache, segments, limits or Limits(), cleanup.pop_all())
            store._save_states(state_path(location), loader.replayed)
            store._compactor.notify(snapshot.indexes)
            if isinstance(log, PostgresLog):
                store._follow(log, poll_seconds)
            return store

    def __init__(
        self,
        snapshot: Snapshot,
        head: Head,
        log: FactLog,
        marker: HeadMarker | None,
        cache: EmbeddingCache,
        segments: SegmentStore | None,
        limits: Limits,
        resources: ExitStack,
    ) -> None:
        self.snapshot = snapshot
        self.limits = limits
        self.merges = 0
        """Background merges of index segments that took effect."""
        self.followed = 0
        """Versions published that others have made."""
        self._head = head
        self._log = log
        self._marker = marker
        self._cache = cache
        self._history = History(log)
        self.texts = TextCounts(snapshot.by_key.values())  # for others to look at
        self._subscribers = Subscribers()
        self._resources = resources
        self._writer = threading.RLock()
        self._follower: Follower | None = None
        # True while the log may hold something that was not published: from the start of a write to its end.
        self._unsettled = False
        self._closed = False
        self._compactor = Compactor(lambda: self.snapshot, self._install_merged, segments)

    def close(self) -> None:
        """Waits for the edit under way and releases every file. Snapshots stay readable."""
        with self._writer:
            if self._closed:
                return
            self._closed = True
        if self._follower is not None:
            self._follower.stop()
        self._compactor.stop()
        self._resources.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Has every change published from now on told to `subscriber`, once and in the order of versions.

        It is called in the writer's turn, before the edit is acknowledged, so it must be quick and may read the
        store but not edit it. What it raises is logged and fails nothing. The function returned unsubscribes it.
        """
        return self._subscribers.add(subscriber)

    @property
    def log_state(self) -> LogState:
        """How this store stands with its log."""
        return LogState() if self._follower is None else self._follower.state(self.snapshot.version)

    def require_log(self) -> None:
        """Raises StoreUnavailable while the log is known to be out of reach: an edit could not be written."""
        contact = self.log_state.contact
        if contact != "connected":
            raise StoreUnavailable(f"the log is {contact}: no edit can be written")

    def look_now(self) -> None:
        """Somebody waits for a version that is not published yet. Returns at once."""
        if self._follower is not None:
            self._follower.wake()

    def catch_up(self) -> int:
        """Publishes what others have appended; how many versions. Raises StoreUnavailable, StoreCorrupt if the log is
        not one that goes on from what is published here."""
        if not isinstance(self._log, PostgresLog):
            return 0
        ours = self._head
        end = self._log.head()
        if end.version < ours.version or (end.version == ours.version and end.chain != ours.chain):
            raise StoreCorrupt(
                "the log", f"ends at version {end.version}, but is not what was published here up to {ours.version}"
            )
        if self._follower is not None:
            self._follower.saw(end.version, self.snapshot.version)
        taken = 0
        for batch in self._log.scan(ours) if end.version > ours.version else ():
            taken += self._take_in(batch)
            if self._follower is not None:
                self._follower.saw(end.version, self.snapshot.version)
        return taken

    def prepare(self, changes: Sequence[Change]) -> Prepared:
        """Validates and embeds; takes no writer's lock and changes nothing. Raises InvalidChange, StoreUnavailable."""
        self._require_open()
        self.require_log()
        checked = validate_batch(changes, self.limits)
        return Prepared(checked, self._cache.vectors(_texts(checked)))

    def commit(self, prepared: Prepared, require: Require | None = None) -> Commit:
        """Makes the batch durable, then visible. All or nothing. `require` is asked about the snapshot before it in the
        writer's turn: what it raises ends the edit.

        Raises VersionConflict when a fact is not at the version that a change expects, FactNotFound when it deletes
        one that does not exist (any more), WriteFailed when it could not be made durable, StoreUnavailable.
        """
        with self._writer:
            return self._commit("edit", lambda: (prepared.changes, prepared.vectors), require or _anything)

    def apply(self, changes: Sequence[Change]) -> Commit:
        """`commit(prepare(changes))`."""
        return self.commit(self.prepare(changes))

    def rollback(self, version: int, namespaces: Collection[str] | None = None) -> Commit:
        """A new version that says what `version` said, in some namespaces or in all, as one batch. Raises
        UnknownVersion."""
        self._require_open()
        self._require_version(version)
        target = replay(self._log.scan(Head(0, GENESIS), upto=version), {})
        vectors = self._cache.vectors(_texts(changes_towards(target, self.snapshot.by_key, namespaces)))

        def plan() -> tuple[Sequence[Change], Mapping[str, Vectors]]:
            changes = changes_towards(target, self.snapshot.by_key, namespaces)
            # Texts that an edit took away since: they come from the cache.
            return changes, vectors | self._cache.vectors(text for text in _texts(changes) if text not in vectors)

        with self._writer:
            return self._commit("rollback", plan)

    def sweep_expired(self, now: float) -> Commit | None:
        """Deletes the facts whose time is over at `now` (unix seconds); None when there are none, or no log."""

        if self.log_state.contact != "connected":
            return None
        with self._writer:
            over = [Delete(fact.id, fact.namespace) for fact in self.snapshot.expired(now)]
            if not over:
                return None
            self._require_open()
            self._settle()
            with suppress(HeadMoved):  # perhaps by somebody who does the same; if not, it is done next time
                return self._attempt("expiry", over, {})
            return None

    def history(self, namespace: str, fact_id: str, limit: int = 100, before: int | None = None) -> list[FactVersion]:
        """Every version of one fact, newest first; `before` is a version to continue below."""
        self._require_open()
        return self._history.of_fact(namespace, fact_id, limit, self._published_before(before))

    def log_entries(
        self, limit: int = 100, before: int | None = None, namespaces: Collection[str] | None = None
    ) -> list[LogEntry]:
        """The store's versions, newest first; `before` is a version to continue below. `namespaces`: only versions that
        touched one of these, and what they did there."""
        self._require_open()
        before = self._published_before(before)
        if namespaces is None:
            return self._history.of_store(limit, before)
        return self._history.of_namespaces(namespaces, limit, before)

    def differences(
        self,
        before: int,
        after: int,
        limit: int = 100,
        start: tuple[str, str] | None = None,
        namespaces: Collection[str] | None = None,
    ) -> Differences:
        """How version `after` differs from version `before`, which may be the newer one, in some namespaces or in all;
        `start`: (namespace, id) to continue after. Raises UnknownVersion."""
        self._require_open()
        for version in (before, after):
            self._require_version(version)
        return differences(self._log, before, after, limit, start, namespaces)

    def _commit(self, kind: str, plan: Plan, require: Require = _anything) -> Commit:
        """In the writer's turn. Where others write too, what they did is taken in until nothing comes between."""
        self._require_open()
        self._settle()
        for _ in range(HURRIED_ATTEMPTS):
            try:
                require(self.snapshot)
                return self._attempt(kind, *plan())
            except HeadMoved:
                self.catch_up()
            except (VersionConflict, FactNotFound):
                if not self.catch_up():
                    raise
        with self._log.alone():
            self.catch_up()
            require(self.snapshot)
            return self._attempt(kind, *plan())

    def _attempt(self, kind: str, changes: Sequence[Change], vectors: Mapping[str, Vectors]) -> Commit:
        """Raises HeadMoved."""
        if failed := conflicts(changes, self.snapshot, time.time()):
            raise VersionConflict(failed)
        for index, change in enumerate(changes):
            if isinstance(change, Delete) and (change.namespace, change.id) not in self.snapshot.by_key:
                raise FactNotFound(change.namespace, change.id, index)
        batch = Batch.following(
            self._head.chain,
            self._head.version + 1,
            time.time(),
            kind,
            [Entry.of(change) for change in changes],
        )
        transition = successor(self.snapshot, batch, vectors)
        new = {text: vectors[text] for text in _texts(changes) if text not in self.texts}
        self._unsettled = True
        try:
            self._log.append(batch, self._cache.rows(new), self._head)
            self._mark(Head(batch.version, batch.chain))
        except WriteFailed as error:
            # At once if possible, so that a restart does not find a batch that was refused.
            with suppress(KnowledgeError):
                self._settle()
            error.recorded |= self._head.chain == batch.chain
            raise
        return self._publish(batch, transition)

    def _mark(self, head: Head) -> None:
        if self._marker is None:
            return
        try:
            self._marker.advance(head)
        except OSError as error:
            raise WriteFailed(f"{self._marker.path}: {error}", recorded=True) from error

    def _publish(self, batch: Batch, transition: Transition) -> Commit:
        self._head = Head(batch.version, batch.chain)
        self.snapshot = transition.snapshot
        self._unsettled = False
        gone = self.texts.follow(transition)
        self._compactor.notify({fact.namespace for fact in (*transition.removed, *transition.added)})
        counts = (batch.upserted, batch.deleted)
        self._subscribers.tell(Published(transition.snapshot, batch.kind, *counts, gone, transition.added_texts))
        return Commit(batch.version, batch.upserted, batch.deleted)

    def _settle(self) -> None:
        """After a failed write: cleans the log, and publishes what it holds after all."""
        if not self._unsettled:
            return
        self._log.recover()
        for batch in self._log.scan(self._head):
            self._take_in(batch)
        self._unsettled = False

    def _take_in(self, batch: Batch) -> bool:
        """Publishes a batch of the log; False if it has been."""
        # Before the writer's turn, which may be another thread's: this may take long.
        vectors = self._cache.vectors(entry.text for entry in batch.entries if entry.text is not None)
        with self._writer:
            if batch.version <= self._head.version:
                return False
            transition = successor(self.snapshot, batch, vectors)
            self._mark(Head(batch.version, batch.chain))
            self._publish(batch, transition)
            self.followed += self._log.shared
            return True

    def _install_merged(self, namespace: str, plan: tuple[Part, ...], merged: Part) -> None:
        with self._writer:
            indexes = self.snapshot.indexes
            index = indexes.get(namespace)
            edited = index.replaced(plan, merged) if index is not None else None
            if edited is not None:
                self.snapshot = replace(self.snapshot, indexes=indexes.set(namespace, edited))
                self.merges += 1

    def _save_states(self, path: Path | None, replayed: int) -> None:
        if path is None:
            return
        saver = StateSaver(path, self._log)
        self._resources.callback(saver.close)
        self.subscribe(saver.follow)
        saver.count(replayed, self.snapshot)

    def _follow(self, log: PostgresLog, poll_seconds: float) -> None:
        self._follower = Follower(log, self.catch_up, self.snapshot.version, poll_seconds)
        self._follower.start()

    def _published_before(self, before: int | None) -> int:
        """Others' newest versions may be in the log and not published here yet."""
        end = self.snapshot.version + 1
        return end if before is None else min(before, end)

    def _require_version(self, version: int) -> None:
        """Raises UnknownVersion if nobody has made it."""
        if version > self.snapshot.version:
            self.catch_up()
        if not 0 <= version <= self.snapshot.version:
            raise UnknownVersion(version, self.snapshot.version)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store is closed")


def _texts(changes: Sequence[Change]) -> list[str]:
    return [change.text for change in changes if isinstance(change, Upsert)]
