"""From batches to facts: the whole of a log at start-up, or one batch on top of a snapshot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import immutables

from kb.facts import Change, Delete, Fact, Key, Upsert
from kb.index.merging import Row
from kb.index.namespace import NamespaceIndex
from kb.index.segment import Vectors
from kb.log.batch import Batch
from kb.metadata import encode_metadata
from kb.snapshot import Snapshot


def replay(
    batches: Iterable[Batch], facts: dict[Key, Fact], on_batch: Callable[[Batch], None] | None = None
) -> dict[Key, Fact]:
    """The facts that hold after the given batches, which start where `facts` held. Changes `facts` to them."""
    for batch in batches:
        for key, fact in outcome(batch, facts.get).items():
            if fact is None:
                facts.pop(key, None)
            else:
                facts[key] = fact
        if on_batch is not None:
            on_batch(batch)
    return facts


def outcome(batch: Batch, before: Callable[[Key], Fact | None]) -> dict[Key, Fact | None]:
    """What the batch leaves of each fact that it touches; None: nothing."""
    result: dict[Key, Fact | None] = {}
    for entry in batch.entries:
        if entry.op == "delete":
            result[entry.key] = None
            continue
        old = before(entry.key)
        result[entry.key] = entry.fact(batch.version, batch.created_at if old is None else old.created_at)
    return result


@dataclass(frozen=True, slots=True)
class Transition:
    """What a batch makes of a snapshot."""

    snapshot: Snapshot
    removed: tuple[Fact, ...]
    """Facts deleted or replaced."""
    added: tuple[Fact, ...]
    """Facts inserted or replacing."""

    @property
    def gone(self) -> tuple[Fact, ...]:
        """Those of `removed` in whose place there is none."""
        return tuple(fact for fact in self.removed if fact.key not in self.snapshot.by_key)

    @property
    def added_texts(self) -> tuple[str, ...]:
        """What those say."""
        return tuple(fact.text for fact in self.added)


def successor(snapshot: Snapshot, batch: Batch, vectors: Mapping[str, Vectors]) -> Transition:
    """The snapshot after `batch`; `vectors` holds the vector of every text that it upserts."""
    facts = snapshot.by_key
    touched = outcome(batch, facts.get)
    removed = tuple(fact for fact in map(facts.get, touched) if fact is not None)
    added = tuple(fact for fact in touched.values() if fact is not None)
    with facts.mutate() as mutation:
        for key, fact in touched.items():
            if fact is not None:
                mutation[key] = fact
            elif key in mutation:
                del mutation[key]
        facts = mutation.finish()
    indexes = _edited(snapshot.indexes, removed, added, vectors)
    changed = snapshot.changed.update(dict.fromkeys((namespace for namespace, _ in touched), batch.version))
    return Transition(Snapshot(batch.version, facts, indexes, changed), removed, added)


def changed_facts(snapshot: Snapshot, facts: Mapping[Key, Fact]) -> Iterator[Fact]:
    """Those that `snapshot` does not hold as they are."""
    return (fact for key, fact in facts.items() if snapshot.by_key.get(key) != fact)


def leap(
    snapshot: Snapshot,
    version: int,
    facts: Mapping[Key, Fact],
    changes: Mapping[str, int],
    vectors: Mapping[str, Vectors],
) -> Transition:
    """From `snapshot` to the facts of a later version, whatever batches led there; `vectors` holds those of the texts
    of `changed_facts`, `changes` the newest version of every namespace."""
    added = tuple(changed_facts(snapshot, facts))
    replaced = tuple(old for fact in added if (old := snapshot.by_key.get(fact.key)) is not None)
    removed = replaced + tuple(fact for key, fact in snapshot.by_key.items() if key not in facts)
    indexes = _edited(snapshot.indexes, removed, added, vectors)
    changed = snapshot.changed.update(changes)
    return Transition(Snapshot(version, immutables.Map(facts), indexes, changed), removed, added)


def _edited(
    indexes: immutables.Map[str, NamespaceIndex],
    removed: Iterable[Fact],
    added: Iterable[Fact],
    vectors: Mapping[str, Vectors],
) -> immutables.Map[str, NamespaceIndex]:
    gone: dict[str, list[str]] = {}
    new: dict[str, list[Row]] = {}
    for fact in removed:
        gone.setdefault(fact.namespace, []).append(fact.id)
    for fact in added:
        new.setdefault(fact.namespace, []).append(row_of(fact, vectors[fact.text]))
    for namespace in gone.keys() | new.keys():
        index = indexes.get(namespace, NamespaceIndex())
        edited = index.edited(gone.get(namespace, ()), new.get(namespace, ()))
        indexes = indexes.set(namespace, edited) if len(edited) else indexes.delete(namespace)
    return indexes


def row_of(fact: Fact, vector: Vectors) -> Row:
    """The row of an index that holds it; `vector` float32 [dim] is its text's."""
    expires_at = math.inf if fact.expires_at is None else fact.expires_at
    return Row(fact.id, vector, fact.text, expires_at, fact.metadata)


def changes_towards(
    target: Mapping[Key, Fact], current: Mapping[Key, Fact], namespaces: Collection[str] | None = None
) -> tuple[Change, ...]:
    """The changes after which `current` says the same as `target` (versions and creation times aside), in some
    namespaces or in all."""
    if namespaces is not None:
        target, current = (
            {key: fact for key, fact in facts.items() if key[0] in namespaces} for facts in (target, current)
        )
    changes: list[Change] = []
    for key, fact in target.items():
        old = current.get(key)
        if old is None or _content(old) != _content(fact):
            changes.append(Upsert(fact.id, fact.namespace, fact.text, fact.metadata, fact.expires_at))
    changes.extend(Delete(fact.id, fact.namespace) for key, fact in current.items() if key not in target)
    return tuple(changes)


def _content(fact: Fact) -> tuple[str, bytes, float | None]:
    # Encoded, because Python calls 1, 1.0 and True equal.
    return (fact.text, encode_metadata(fact.metadata), fact.expires_at)


class TextCounts:
    """How many facts hold each text. Followed by the one writer only; anybody may look."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._counts = Counter(fact.text for fact in facts)

    def __contains__(self, text: str) -> bool:
        return text in self._counts

    def __len__(self) -> int:
        """Distinct texts."""
        return len(self._counts)

    def follow(self, transition: Transition) -> tuple[str, ...]:
        """Counts anew after a transition; gives the texts that no fact holds any more."""
        self._counts.update(fact.text for fact in transition.added)
        for fact in transition.removed:
            self._counts[fact.text] -= 1
        gone = {fact.text: None for fact in transition.removed if self._counts[fact.text] == 0}
        for text in gone:
            del self._counts[text]
        return tuple(gone)
