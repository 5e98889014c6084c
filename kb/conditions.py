"""Which versions changes expect facts to have, and which they have."""

from __future__ import annotations

from collections.abc import Sequence

from kb.errors import Conflict
from kb.facts import Change
from kb.snapshot import Snapshot


def conflicts(changes: Sequence[Change], snapshot: Snapshot, now: float) -> list[Conflict]:
    """Where the snapshot is not what a change expects. Facts whose time is over at `now` (unix seconds) do not exist.

    Changes are validated.
    """
    found: list[Conflict] = []
    for index, change in enumerate(changes):
        if change.if_version is None:
            continue
        fact = snapshot.get(change.namespace, str(change.id), now)
        if change.if_version != (0 if fact is None else fact.version):
            current = None if fact is None else fact.version
            found.append(Conflict(index, change.namespace, str(change.id), change.if_version, current))
    return found
