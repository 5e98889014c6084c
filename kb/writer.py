"""The one writer of a store: commits edits, publishes them and what others have appended, in the log's order.

What is published is one reference, swapped in the writer's turn once the log has the batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from kb.conditions import conflicts
from kb.edit import Commit
from kb.errors import (
    FactNotFound,
    KnowledgeError,
    StoreClosed,
    StoreCorrupt,
    VersionConflict,
    VersionGone,
    WriteFailed,
)
from kb.facts import Change, Delete, Upsert
from kb.following import Follower
from kb.index.compaction import Compactor
from kb.index.part import Part
from kb.index.segment import Vectors
from kb.log import compaction
from kb.log.batch import Batch, Entry
from kb.log.fact_log import HeadMoved
from kb.log.marker import Head
from kb.log.postgres import PostgresLog
from kb.opening import Parts
from kb.publishing import Published, Subscribers
from kb.replay import TextCounts, Transition, changed_facts, leap, successor
from kb.retention import KEPT_VERSIONS
from kb.snapshot import Snapshot

HURRIED_ATTEMPTS = 3
"""At an edit of a shared log, before others are kept from appending meanwhile."""
Plan: TypeAlias = Callable[[], tuple[Sequence[Change], Mapping[str, Vectors]]]
"""What an edit changes, given what is published now, and vectors of the texts."""
Require: TypeAlias = Callable[[Snapshot], None]
"""What must hold of the snapshot before an edit: raises if it does not."""


def anything(_: Snapshot) -> None:
    """Whatever holds."""


class Writer:
    """Every method without an underscore is thread-safe."""

    snapshot: Snapshot
    """The newest published state; reading the attribute takes no lock."""

    def __init__(self, parts: Parts) -> None:
        self.snapshot = parts.snapshot
        self.merges = 0
        """Background merges of index segments that took effect."""
        self.followed = 0
        """Versions published that others have made."""
        self.texts = TextCounts(parts.snapshot.by_key.values())  # for others to look at
        self.subscribers = Subscribers()
        self.follower: Follower | None = None
        """Who is told how far the log goes."""
        self._head = parts.head
        self._log = parts.log
        self._marker = parts.marker
        self._cache = parts.cache
        self._turn = threading.RLock()
        # True while the log may hold something that was not published: from the start of a write to its end.
        self._unsettled = False
        self._closed = False
        self._compactor = Compactor(lambda: self.snapshot, self._install_merged, parts.segments)
        self._compactor.notify(self.snapshot.indexes)

    def close(self) -> bool:
        """Waits for the edit under way, and takes no more; False if it was closed before."""
        with self._turn:
            closed, self._closed = self._closed, True
            return not closed

    def stop_merging(self) -> None:
        """Waits for the merge under way."""
        self._compactor.stop()

    def require_open(self) -> None:
        """Raises StoreClosed."""
        if self._closed:
            raise StoreClosed("the store is closed")

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

    def commit(self, kind: str, plan: Plan, require: Require = anything) -> Commit:
        """Where others write too, what they did is taken in until nothing comes between."""
        with self._turn:
            self.require_open()
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

    def sweep_expired(self, now: float) -> Commit | None:
        """Deletes the facts whose time is over at `now` (unix seconds); None when there are none."""
        with self._turn:
            over = [Delete(fact.id, fact.namespace) for fact in self.snapshot.expired(now)]
            if not over:
                return None
            self.require_open()
            self._settle()
            with suppress(HeadMoved):  # perhaps by somebody who does the same; if not, it is done next time
                return self._attempt("expiry", over, {})
            return None

    def compact(self, cutoff: float) -> int:
        """Lets some of the versions go that were made before `cutoff` (unix seconds); how many. 0: there are none, but
        the newest few, or somebody else does it. Raises WriteFailed, StoreUnavailable, StoreCorrupt."""
        self.require_open()
        try:
            step = compaction.plan(self._log, cutoff, self.snapshot.version - KEPT_VERSIONS)
        except VersionGone:
            return 0
        if step is None:
            return 0
        with self._turn:
            self.require_open()
            self._settle()
            unused = self._cache.keys(text for text in step.texts if text not in self.texts)
            self._unsettled = True
            done = self._log.compact(step, unused)
            self._unsettled = False
        return step.versions if done else 0

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
        new = {text: vectors[text] for text in texts_of(changes) if text not in self.texts}
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
        namespaces = {fact.namespace for fact in (*transition.removed, *transition.added)}
        self._compactor.notify(namespaces, len(transition.added))
        self.subscribers.tell(Published(transition.snapshot, kind, *counts, gone, transition.added_texts))

    def _settle(self) -> None:
        """After a failed write: cleans the log, and publishes what it holds after all."""
        if not self._unsettled:
            return
        self._log.recover()
        if self._log.shared:
            self.catch_up()
        else:
            for batch in self._log.scan(self._head):
                self._take_in(batch)
        self._unsettled = False

    def _saw(self, end: Head) -> None:
        if self.follower is not None:
            self.follower.saw(end.version, self.snapshot.version)

    def _take_in(self, batch: Batch) -> bool:
        """Publishes a batch of the log; False if it has been."""
        # Before the writer's turn, which may be another thread's: this may take long.
        vectors = self._cache.vectors(entry.text for entry in batch.entries if entry.text is not None)
        with self._turn:
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
        theirs = beginning.base.head
        vectors = self._cache.vectors(fact.text for fact in changed_facts(self.snapshot, beginning.facts))
        with self._turn:
            skipped = theirs.version - self._head.version
            if skipped <= 0:
                return 0
            vectors |= self._cache.vectors(
                fact.text for fact in changed_facts(self.snapshot, beginning.facts) if fact.text not in vectors
            )
            transition = leap(self.snapshot, theirs.version, beginning.facts, beginning.changes, vectors)
            self._publish(theirs, "edit", (len(transition.added), len(transition.gone)), transition)
            self.followed += skipped
            return skipped

    def _install_merged(self, namespace: str, plan: tuple[Part, ...], merged: Part) -> None:
        with self._turn:
            indexes = self.snapshot.indexes
            index = indexes.get(namespace)
            edited = index.replaced(plan, merged) if index is not None else None
            if edited is not None:
                self.snapshot = replace(self.snapshot, indexes=indexes.set(namespace, edited))
                self.merges += 1


def texts_of(changes: Sequence[Change]) -> list[str]:
    """What they say."""
    return [change.text for change in changes if isinstance(change, Upsert)]
