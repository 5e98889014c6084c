"""What the knowledge store refuses, and why. Every error of `kb` derives from `KnowledgeError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class KnowledgeError(Exception):
    """Base of every error that the knowledge store raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule or a limit that a change breaks."""

    index: int
    """The change's position in its batch."""
    field: str
    """The offending field; "changes" for the batch itself."""
    message: str

    def __str__(self) -> str:
        return f"change {self.index}, {self.field}: {self.message}"


class InvalidChange(KnowledgeError):
    """Changes break rules or limits; nothing of their batch was applied."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)
        """All that is wrong with the batch, at least one; of each field what is noticed first."""


class FactNotFound(KnowledgeError):
    """A change names a fact that does not exist; nothing of its batch was applied."""

    def __init__(self, namespace: str, fact_id: str, index: int = 0) -> None:
        super().__init__(f"no fact {fact_id!r} in namespace {namespace!r}")
        self.namespace = namespace
        self.fact_id = fact_id
        self.index = index


@dataclass(frozen=True)
class Conflict:
    """A fact is not at the version that a change expects."""

    index: int
    """The change's position in its batch."""
    namespace: str
    fact_id: str
    expected: int
    """0: no such fact."""
    current: int | None
    """None: there is none."""

    @property
    def final(self) -> bool:
        """Whether the fact is past what is expected, and so never comes back to it."""
        return self.current is not None and self.current > self.expected > 0

    def __str__(self) -> str:
        fact = f"fact {self.fact_id!r} in namespace {self.namespace!r}"
        if self.current is None:
            return f"{fact} does not exist, and is expected at version {self.expected}"
        return f"{fact} is at version {self.current}, and is expected {self._wanted}"

    @property
    def _wanted(self) -> str:
        return f"at version {self.expected}" if self.expected else "not to exist"


class VersionConflict(KnowledgeError):
    """Facts are not at the versions that changes expect; nothing of their batch was applied."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        super().__init__("; ".join(map(str, conflicts)))
        self.conflicts = tuple(conflicts)
        """All of the batch, at least one."""


class UnknownVersion(KnowledgeError):
    """A version that the store has never had."""

    def __init__(self, version: int, newest: int) -> None:
        super().__init__(f"version {version} does not exist: the store holds versions 0 to {newest}")
        self.version = version
        self.newest = newest


class VersionGone(KnowledgeError):
    """A version that is no longer kept: the log begins at `oldest`, which not everybody is told (None)."""

    def __init__(self, version: int, oldest: int | None) -> None:
        more = "" if oldest is None else f": the oldest version kept is {oldest}"
        super().__init__(f"version {version} is no longer kept{more}")
        self.version = version
        self.oldest = oldest


class WriteFailed(KnowledgeError):
    """The edit could not be made durable and is not visible; readers go on, and a later edit may succeed.

    `recorded` is true in the one case where the log kept the batch all the same (the head marker could not be
    written): it then becomes visible with the next edit that succeeds, or at the next start.
    """

    def __init__(self, message: str, *, recorded: bool = False) -> None:
        super().__init__(message)
        self.recorded = recorded


class WriteUnknown(WriteFailed):
    """The database was lost while the edit was committed, and did not come back in time to tell. If it holds the batch,
    that becomes visible once it is back."""


class StoreClosed(KnowledgeError):
    """The store was closed; it takes no more edits."""


class StoreUnavailable(KnowledgeError):
    """The store's files or database cannot be used now: permissions, no driver, another process, no connection."""


class StoreLocked(StoreUnavailable):
    """Another process has this store open."""


class StoreCorrupt(KnowledgeError):
    """The files do not hold exactly what was acknowledged. `path` names the damaged one."""

    def __init__(self, path: Path | str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = str(path)
        self.message = message


class InvalidLine(KnowledgeError):
    """A line of an NDJSON import is refused. `line` counts from 1."""

    def __init__(self, line: int, field: str | None, message: str) -> None:
        where = f"line {line}" if field is None else f"line {line}, {field}"
        super().__init__(f"{where}: {message}")
        self.line = line
        self.field = field
        self.message = message
