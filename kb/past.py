"""What a store held before: read out of its log, and bounded by what is published."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from kb.errors import UnknownVersion, VersionGone
from kb.facts import Fact, Key
from kb.log.difference import Differences, differences
from kb.log.history import FactVersion, History, LogEntry
from kb.log.reader import LogReader
from kb.log.state import base_state
from kb.replay import replay

T = TypeVar("T")


class Past:
    """Thread-safe. Every method raises StoreCorrupt, StoreUnavailable, StoreClosed."""

    def __init__(self, log: LogReader, published: Callable[[], int], catch_up: Callable[[], int]) -> None:
        """`published` is the version that readers see, or raises StoreClosed; `catch_up` publishes others' edits."""
        self._log = log
        self._history = History(log)
        self._published = published
        self._catch_up = catch_up

    def oldest(self) -> int:
        """The oldest version that is kept."""
        self._published()
        return self._log.base().head.version

    def history(self, namespace: str, fact_id: str, limit: int = 100, before: int | None = None) -> list[FactVersion]:
        """Every version of one fact, newest first; `before` is a version to continue below. Raises VersionGone."""
        end = self._end(before)
        return self._steadily(lambda: self._history.of_fact(namespace, fact_id, limit, end))

    def log_entries(
        self, limit: int = 100, before: int | None = None, namespaces: Collection[str] | None = None
    ) -> list[LogEntry]:
        """The store's versions, newest first; `before` is a version to continue below. `namespaces`: only versions that
        touched one of these, and what they did there. Raises VersionGone."""
        end = self._end(before)
        if namespaces is None:
            return self._steadily(lambda: self._history.of_store(limit, end))
        return self._steadily(lambda: self._history.of_namespaces(namespaces, limit, end))

    def differences(
        self,
        before: int,
        after: int,
        limit: int = 100,
        start: tuple[str, str] | None = None,
        namespaces: Collection[str] | None = None,
    ) -> Differences:
        """How version `after` differs from version `before`, which may be the newer one, in some namespaces or in all;
        `start`: (namespace, id) to continue after. Raises UnknownVersion, VersionGone."""
        for version in (before, after):
            self._require_made(version)
        return self._steadily(lambda: differences(self._log, before, after, limit, start, namespaces))

    def facts_at(self, version: int) -> dict[Key, Fact]:
        """All facts as of a version. Raises UnknownVersion, VersionGone."""
        self._require_made(version)

        def read() -> dict[Key, Fact]:
            state = base_state(self._log)
            if version < state.head.version:
                raise VersionGone(version, state.head.version)
            return replay(self._log.scan(state.head, upto=version), dict(state.facts))

        return self._steadily(read)

    def _steadily(self, read: Callable[[], T]) -> T:
        """Once more where history was let go while it was read."""
        while True:
            base = self._log.base()
            try:
                return read()
            except VersionGone:
                if self._log.base() == base:
                    raise

    def _end(self, before: int | None) -> int:
        """Others' newest versions may be in the log and not published here yet."""
        end = self._published() + 1
        return end if before is None else min(before, end)

    def _require_made(self, version: int) -> None:
        """Raises UnknownVersion if nobody has made it."""
        if version > self._published():
            self._catch_up()
        if not 0 <= version <= self._published():
            raise UnknownVersion(version, self._published())
