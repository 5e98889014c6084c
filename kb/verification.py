"""Reading all that a store holds, which a start does not do: on demand, while no other process has it open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kb.errors import StoreCorrupt
from kb.facts import Fact, Key
from kb.loading import Progress, check_head, open_marker
from kb.log.batch import Batch
from kb.log.fact_log import FactLog
from kb.log.location import Location, StoreLock
from kb.log.marker import Head, HeadMarker
from kb.log.opening import open_log
from kb.log.reader import LogReader
from kb.log.state import base_state, read_state
from kb.replay import replay


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that is sound from its first version to its newest."""

    version: int
    facts: int
    """How many hold now."""


def verify(path_or_url: Path | str, progress: Progress | None = None) -> Verified:
    """Checks every page of the database, every version in the log, the head marker and the saved state.

    `progress(done, total)` counts log entries. Raises StoreLocked, StoreUnavailable, StoreCorrupt (naming the
    damaged file).
    """
    with _opened(Location.of(path_or_url)) as whole:
        head, facts = whole.read(progress)
        check_head(head, whole.marker, whole.log, whole.location)
        return Verified(head.version, len(facts))


def accept_log(path_or_url: Path | str, progress: Progress | None = None) -> Verified:
    """Accepts a sound log whose head marker is lost or of another copy; acknowledged edits may then be missing from
    it unnoticed. Otherwise like `verify`."""
    with _opened(Location.of(path_or_url)) as whole:
        head, facts = whole.read(progress)
        if whole.marker is not None:
            whole.marker.restore(head)
        return Verified(head.version, len(facts))


@dataclass(frozen=True, slots=True)
class _Whole:
    location: Location
    marker: HeadMarker | None
    log: FactLog

    def read(self, progress: Progress | None) -> tuple[Head, dict[Key, Fact]]:
        """The log's end and the facts there, from its beginning, once."""
        path = None if self.location.database is None else self.location.beside(".state")
        saved = None if path is None else read_state(path)

        def check(head: Head, facts: dict[Key, Fact]) -> None:
            if saved is not None and saved.head == head and saved.facts != facts:
                raise StoreCorrupt(str(path), f"its facts are not those of version {head.version}")

        return read_all(self.log, progress, check)


def read_all(
    log: LogReader, progress: Progress | None = None, check: Callable[[Head, dict[Key, Fact]], None] | None = None
) -> tuple[Head, dict[Key, Fact]]:
    """Every version that a log holds: its end and the facts there. `check` is asked about each version. Raises
    StoreUnavailable, StoreCorrupt."""
    state = base_state(log)
    total, done, head, facts = log.entry_count(), 0, state.head, dict(state.facts)

    def follow(batch: Batch) -> None:
        nonlocal done, head
        done, head = done + len(batch.entries), Head(batch.version, batch.chain)
        if check is not None:
            check(head, facts)
        if progress is not None:
            progress(done, total)

    replay(log.scan(head), facts, follow)
    return head, facts


@contextmanager
def _opened(location: Location) -> Iterator[_Whole]:
    with ExitStack() as cleanup:
        marker = None
        if location.database is not None:
            cleanup.callback(StoreLock(location.beside(".lock")).release)
            marker = open_marker(location)
            cleanup.callback(marker.close)
        log = open_log(location, check_seconds=math.inf)
        cleanup.callback(log.close)
        yield _Whole(location, marker, log)
