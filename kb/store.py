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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from kb.conditions import conflicts
from kb.edit import Commit, Prepared
from kb.encoder.protocol import Encoder
from kb.errors import (
    FactNotFound,
    KnowledgeError,
    StoreClosed,
    StoreCorrupt,
    StoreUnavailable,
    VersionConflict,
    VersionGone,
    WriteFailed,
)
from kb.facts import Change, Delete, Limits, Upsert
from kb.following import Follower, LogState
from kb.index.compaction import Compactor
from kb.index.part import Part
from kb.index.segment import Vectors
from kb.loading import Progress
from kb.log import compaction
from kb.log.batch import Batch, Entry
from kb.log.fact_log import HeadMoved
from kb.log.location import Location
from kb.log.marker import Head
from kb.log.postgres import PostgresLog
from kb.opening import Parts, open_parts
from kb.past import Past
from kb.publishing import Published, Subscriber, Subscribers
from kb.replay import TextCounts, Transition, changed_facts, changes_towards, leap, successor
from kb.retention import KEPT_VERSIONS, Retention
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
        history_days: float | None = None,
        local: Path | None = None,
    ) -> Store:
        """Opens a store directory (made when missing) or a database URL, checking everything that it reads: what
        holds now. Older history is checked when it is read, and by `kb.verification.verify`.

        `progress(done, total)` is called while the log is replayed and facts are indexed. A shared log is looked at
        every `poll_seconds`, and whenever it says that somebody has appended. Versions older than `history_days` are
        let go, if that is set. `local` is a directory for what only saves a start time where the log is no file here.

        Raises StoreLocked, StoreUnavailable, StoreCorrupt (naming the damaged file).
        """
        parts = open_parts(Location.of(path_or_url), encoder, local, progress)
        store = cls(parts, limits or Limits())
        store._begin(parts, poll_seconds, history_days)
        return store

    def __init__(self, parts: Parts, limits: Limits) -> None:
        self.snapshot = parts.snapshot
        self.limits = limits
        self.merges = 0
        """Background merges of index segments that took effect."""
        self.followed = 0
        """Versions published that others have made."""
        self.past = Past(parts.log, self._published, self.catch_up)
        """What held before."""
        self._head = parts.head
        self._log = parts.log
        self._marker = parts.marker
        self._cache = parts.cache
        self.texts = TextCounts(parts.snapshot.by_key.values())  # for others to look at
        self._subscribers = Subscribers()
        self._resources = parts.resources
        self._writer = threading.RLock()
        self._follower: Follower | None = None
        self._retention: Retention | None = None
        # True while the log may hold something that was not published: from the start of a write to its end.
        self._unsettled = False
        self._closed = False
        self._compactor = Compactor(lambda: self.snapshot, self._install_merged, parts.segments)

    def close(self) -> None:
        """Waits for the edit under way and releases every file. Snapshots stay readable."""
        with self._writer:
            if self._closed:
                return
            self._closed = True
        if self._follower is not None:
            self._follower.stop()
        if self._retention is not None:
            self._retention.stop()
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
        self._saw(end)
        taken = 0
        while self._head.version < end.version:
            try:
                for batch in self._log.scan(self._head):
                    taken += self._take_in(batch)
                    self._saw(end)
                break  # or the log was replaced meanwhile, which the next look tells
            except VersionGone:
                taken += self._start_over()
                self._saw(end)
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
        UnknownVersion, VersionGone."""
        target = self.past.facts_at(version)
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

    def compact(self, cutoff: float) -> int:
        """Lets some of the versions go that were made before `cutoff` (unix seconds); how many. 0: there are none, but
        the newest few, or somebody else does it. Raises WriteFailed, StoreUnavailable, StoreCorrupt."""
        self._require_open()
        try:
            step = compaction.plan(self._log, cutoff, self.snapshot.version - KEPT_VERSIONS)
        except VersionGone:
            return 0
        if step is None:
            return 0
        with self._writer:
            self._require_open()
            self._settle()
            unused = self._cache.keys(text for text in step.texts if text not in self.texts)
            self._unsettled = True
            done = self._log.compact(step, unused)
            self._unsettled = False
        return step.versions if done else 0

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
        head, counts = Head(batch.version, batch.chain), (batch.upserted, batch.deleted)
        self._publish(head, batch.kind, counts, transition)
        return Commit(batch.version, *counts)

    def _mark(self, head: Head) -> None:
        if self._marker is None:
            return
        try:
            self._marker.advance(head)
        except OSError as error:
            raise WriteFailed(f"{self._marker.path}: {error}", recorded=True) from error

    def _publish(self, head: Head, kind: str, counts: tuple[int, int], transition: Transition) -> None:
        self._head = head
        self.snapshot = transition.snapshot
        self._unsettled = False
        gone = self.texts.follow(transition)
        self._compactor.notify({fact.namespace for fact in (*transition.removed, *transition.added)})
        self._subscribers.tell(Published(transition.snapshot, kind, *counts, gone, transition.added_texts))

    def _settle(self) -> None:
        """After a failed write: cleans the log, and publishes what it holds after all."""
        if not self._unsettled:
            return
        self._log.recover()
        for batch in self._log.scan(self._head):
            self._take_in(batch)
        self._unsettled = False

    def _saw(self, end: Head) -> None:
        if self._follower is not None:
            self._follower.saw(end.version, self.snapshot.version)

    def _take_in(self, batch: Batch) -> bool:
        """Publishes a batch of the log; False if it has been."""
        # Before the writer's turn, which may be another thread's: this may take long.
        vectors = self._cache.vectors(entry.text for entry in batch.entries if entry.text is not None)
        with self._writer:
            if batch.version <= self._head.version:
                return False
            transition = successor(self.snapshot, batch, vectors)
            self._mark(Head(batch.version, batch.chain))
            self._publish(Head(batch.version, batch.chain), batch.kind, (batch.upserted, batch.deleted), transition)
            self.followed += self._log.shared
            return True

    def _start_over(self) -> int:
        """What was to be published next is no longer kept: publishes the log's base, as one change."""
        beginning = self._log.beginning()
        ours, theirs = self._head, beginning.base.head
        vectors = self._cache.vectors(fact.text for fact in changed_facts(self.snapshot, beginning.facts))
        with self._writer:
            if theirs.version <= self._head.version:
                return 0
            vectors |= self._cache.vectors(
                fact.text for fact in changed_facts(self.snapshot, beginning.facts) if fact.text not in vectors
            )
            transition = leap(self.snapshot, theirs.version, beginning.facts, beginning.changes, vectors)
            self._publish(theirs, "edit", (len(transition.added), len(transition.gone)), transition)
            self.followed += theirs.version - ours.version
            return theirs.version - ours.version

    def _install_merged(self, namespace: str, plan: tuple[Part, ...], merged: Part) -> None:
        with self._writer:
            indexes = self.snapshot.indexes
            index = indexes.get(namespace)
            edited = index.replaced(plan, merged) if index is not None else None
            if edited is not None:
                self.snapshot = replace(self.snapshot, indexes=indexes.set(namespace, edited))
                self.merges += 1

    def _begin(self, parts: Parts, poll_seconds: float, history_days: float | None) -> None:
        """What goes on beside edits."""
        if parts.state_path is not None:
            saver = StateSaver(parts.state_path, self._log)
            self._resources.callback(saver.close)
            self.subscribe(saver.follow)
            saver.count(parts.replayed, self.snapshot)
        self._compactor.notify(self.snapshot.indexes)
        if isinstance(self._log, PostgresLog):
            self._follower = Follower(self._log, self.catch_up, self.snapshot.version, poll_seconds)
            self._follower.start()
        if history_days is not None:
            self._retention = Retention(self.compact, history_days)

    def _published(self) -> int:
        self._require_open()
        return self.snapshot.version

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store is closed")


def _texts(changes: Sequence[Change]) -> list[str]:
    return [change.text for change in changes if isinstance(change, Upsert)]
