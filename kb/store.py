"""The knowledge store: one writer, many readers, no reader lock.

An edit is validated and embedded without a lock, appended to the durable log, noted in the head marker, and
published by swapping one reference (`kb/writer.py`); only then does the caller learn its version.

A log in PostgreSQL is shared: what others append is published as well, in the log's order (`kb/following.py`). An edit
then goes through if nothing has come between; else what came is taken in, and the edit looks at the facts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from kb.edit import Commit, Prepared
from kb.encoder.protocol import Encoder
from kb.errors import StoreUnavailable
from kb.facts import Change, Limits
from kb.following import Follower, LogState
from kb.index.segment import Vectors
from kb.loading import Progress
from kb.log.location import Location
from kb.log.postgres import PostgresLog
from kb.opening import Parts, open_parts
from kb.past import Past
from kb.publishing import Subscriber
from kb.replay import TextCounts, changes_towards
from kb.retention import Retention
from kb.saving import StateSaver
from kb.snapshot import Snapshot
from kb.validation import validate_batch
from kb.writer import Require, Writer, anything, texts_of

POLL_SECONDS = 1.0


class Store:
    """Open it with `Store.open`. Every method is thread-safe."""

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
        store._begin(poll_seconds, history_days)
        return store

    def __init__(self, parts: Parts, limits: Limits) -> None:
        self.limits = limits
        self._parts = parts
        self._log = parts.log
        self._cache = parts.cache
        self._writer = Writer(parts)
        self.past = Past(parts.log, self._published, self._writer.catch_up)
        """What held before."""
        self._follower: Follower | None = None
        self._retention: Retention | None = None

    def close(self) -> None:
        """Waits for the edit under way and releases every file. Snapshots stay readable."""
        if not self._writer.close():
            return
        if self._follower is not None:
            self._follower.stop()
        if self._retention is not None:
            self._retention.stop()
        self._writer.stop_merging()
        self._parts.resources.close()

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
        return self._writer.subscribers.add(subscriber)

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

    @property
    def snapshot(self) -> Snapshot:
        """The newest published state; reading it takes no lock."""
        return self._writer.snapshot

    @property
    def texts(self) -> TextCounts:
        """How many facts hold each text now."""
        return self._writer.texts

    @property
    def merges(self) -> int:
        """Background merges of index segments that took effect."""
        return self._writer.merges

    @property
    def followed(self) -> int:
        """Versions published that others have made."""
        return self._writer.followed

    def catch_up(self) -> int:
        """Publishes what others have appended; how many versions. Raises StoreUnavailable, StoreCorrupt if the log is
        not one that goes on from what is published here."""
        return self._writer.catch_up()

    def prepare(self, changes: Sequence[Change]) -> Prepared:
        """Validates and embeds; takes no writer's lock and changes nothing. Raises InvalidChange, StoreUnavailable."""
        self._writer.require_open()
        self.require_log()
        checked = validate_batch(changes, self.limits)
        return Prepared(checked, self._cache.vectors(texts_of(checked)))

    def commit(self, prepared: Prepared, require: Require | None = None) -> Commit:
        """Makes the batch durable, then visible. All or nothing. `require` is asked about the snapshot before it in the
        writer's turn: what it raises ends the edit.

        Raises VersionConflict when a fact is not at the version that a change expects, FactNotFound when it deletes
        one that does not exist (any more), WriteFailed when it could not be made durable, StoreUnavailable.
        """
        return self._writer.commit("edit", lambda: (prepared.changes, prepared.vectors), require or anything)

    def apply(self, changes: Sequence[Change]) -> Commit:
        """`commit(prepare(changes))`."""
        return self.commit(self.prepare(changes))

    def rollback(self, version: int, namespaces: Collection[str] | None = None) -> Commit:
        """A new version that says what `version` said, in some namespaces or in all, as one batch. Raises
        UnknownVersion, VersionGone."""
        target = self.past.facts_at(version)
        vectors = self._cache.vectors(texts_of(changes_towards(target, self.snapshot.by_key, namespaces)))

        def plan() -> tuple[Sequence[Change], Mapping[str, Vectors]]:
            changes = changes_towards(target, self.snapshot.by_key, namespaces)
            # Texts that an edit took away since: they come from the cache.
            return changes, vectors | self._cache.vectors(text for text in texts_of(changes) if text not in vectors)

        return self._writer.commit("rollback", plan)

    def sweep_expired(self, now: float) -> Commit | None:
        """Deletes the facts whose time is over at `now` (unix seconds); None when there are none, or no log."""
        return self._writer.sweep_expired(now) if self.log_state.contact == "connected" else None

    def compact(self, cutoff: float) -> int:
        """Lets some of the versions go that were made before `cutoff` (unix seconds); how many. 0: there are none, but
        the newest few, or somebody else does it. Raises WriteFailed, StoreUnavailable, StoreCorrupt."""
        return self._writer.compact(cutoff)

    def _begin(self, poll_seconds: float, history_days: float | None) -> None:
        """What goes on beside edits."""
        if self._parts.state_path is not None:
            saver = StateSaver(self._parts.state_path, self._log)
            self._parts.resources.callback(saver.close)
            self.subscribe(saver.follow)
            saver.count(self._parts.replayed, self.snapshot)
        if isinstance(self._log, PostgresLog):
            self._follower = Follower(self._log, self._writer.catch_up, self.snapshot.version, poll_seconds)
            self._writer.follower = self._follower
            self._follower.start()
        if history_days is not None:
            self._retention = Retention(self._writer.compact, history_days)

    def _published(self) -> int:
        self._writer.require_open()
        return self.snapshot.version
