"""What differs between two versions of the store, read out of the log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kb.errors import VersionGone
from kb.facts import Key
from kb.log.batch import Entry
from kb.log.reader import LogReader


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that two versions tell differently. None: that version does not have it."""

    key: Key
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Differences:
    """Some of them by namespace and id; `next_after` continues after them (None: that was all)."""

    differences: tuple[Difference, ...]
    next_after: Key | None


def differences(
    log: LogReader, before: int, after: int, limit: int, start: Key | None, namespaces: Collection[str] | None = None
) -> Differences:
    """How version `after` differs from version `before`, in some namespaces or in all; either may be the older one.

    Looks at `limit` facts (at least 1) with keys greater than `start` that were touched in between. Those that say the
    same in the end are left out, so there may be fewer. Raises VersionGone, StoreCorrupt, StoreUnavailable.
    """
    older, newer = sorted((before, after))
    touched = log.keys_between(older + 1, newer, limit + 1, start, namespaces)
    keys = touched[:limit]
    earlier, later = (log.last_touches(keys, version) for version in (before, after))
    told = _told(log, [*earlier.items(), *later.items()])
    # No batch that is kept touched these so early: the base has them, or there was no such fact.
    base = log.base_rows([key for key in keys if key not in earlier or key not in later])
    old = {key: row.entry for key, row in base.items()}

    def said(key: Key, touches: dict[Key, int]) -> Entry | None:
        return told.get((key, touches[key])) if key in touches else old.get(key)

    found = [Difference(key, said(key, earlier), said(key, later)) for key in keys]
    if older < (oldest := log.base().head.version):
        raise VersionGone(older, oldest)  # now, or it went while it was read
    return Differences(
        tuple(one for one in found if one.before != one.after), keys[-1] if len(touched) > limit else None
    )


def _told(log: LogReader, places: Sequence[tuple[Key, int]]) -> dict[tuple[Key, int], Entry]:
    """What versions say of facts, without those that they delete. Each version is read once."""
    wanted: dict[int, set[Key]] = {}
    for key, version in places:
        wanted.setdefault(version, set()).add(key)
    return {
        (entry.key, version): entry
        for version, keys in wanted.items()
        for entry in log.excerpt(version, keys).entries
        if entry.op != "delete"
    }
