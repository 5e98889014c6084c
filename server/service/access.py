"""What a caller may read and edit. To whom a namespace is closed, it is as if it did not exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb.errors import FactNotFound, UnknownVersion
from kb.facts import DEFAULT_NAMESPACE, Change, Delete
from server.service.errors import NotAllowed

if TYPE_CHECKING:
    from kb.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Access:
    """Namespaces by name; None: all of them."""

    read: frozenset[str] | None = None
    edit: frozenset[str] | None = None
    home: str = DEFAULT_NAMESPACE
    """The namespace that is meant where none is named."""

    @property
    def whole(self) -> bool:
        """Whether nothing is closed to it."""
        return self.read is None and self.edit is None

    @property
    def seen(self) -> frozenset[str] | None:
        """Namespaces whose changes it may know of."""
        return None if self.read is None or self.edit is None else self.read | self.edit

    def reads(self, namespace: str) -> bool:
        """Whether it may know what the namespace holds."""
        return self.read is None or namespace in self.read

    def edits(self, namespace: str) -> bool:
        """Whether it may change what the namespace holds."""
        return self.edit is None or namespace in self.edit

    def readable(self, namespace: str | None, snapshot: Snapshot) -> tuple[str, ...]:
        """Of the namespaces that hold a fact those it reads: all, or this one if it is among them."""
        return tuple(name for name in snapshot.namespaces() if namespace in (None, name) and self.reads(name))

    def shown(self, namespace: str, snapshot: Snapshot) -> Snapshot:
        """What it is shown of the namespace's facts: the snapshot, or for whom it is closed an empty one."""
        if self.reads(namespace):
            return snapshot
        from kb.snapshot import Snapshot  # heavy, and the command line knows of keys as well

        return Snapshot()

    def version(self, snapshot: Snapshot) -> int:
        """The newest version that changed anything it may know of."""
        return snapshot.version_of(self.seen)

    def require_version(self, version: int, snapshot: Snapshot) -> None:
        """Raises UnknownVersion for one that others made after what it may know of."""
        newest = self.version(snapshot)
        if version > newest:
            raise UnknownVersion(version, newest)

    def require_edits(self, changes: Sequence[Change], param: Callable[[int], str]) -> None:
        """`param(index)` names the field that says a change's namespace. Raises NotAllowed; FactNotFound for what it
        may neither delete nor see. Neither depends on what there is."""
        for index, change in enumerate(changes):
            if self.edits(change.namespace):
                continue
            if isinstance(change, Delete) and not self.reads(change.namespace):
                raise FactNotFound(change.namespace, change.id, index)
            raise NotAllowed(f"This key may not edit namespace {change.namespace!r}.", param(index))

    def require_editable(self, namespaces: Sequence[str], param: Callable[[int], str]) -> None:
        """Of what is written; as `require_edits`."""
        for index, namespace in enumerate(namespaces):
            if not self.edits(namespace):
                raise NotAllowed(f"This key may not edit namespace {namespace!r}.", param(index))

    def require_whole(self) -> None:
        """Raises NotAllowed where what is answered is about everything."""
        if not self.whole:
            raise NotAllowed("This endpoint needs a key that is not bound to namespaces.", None)


EVERYTHING = Access()
"""Of whoever is bound to nothing."""
