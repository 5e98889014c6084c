"""A published state of the store: immutable, so any number of threads may read it while edits go on."""

from __future__ import annotations

import builtins
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice

import immutables
import numpy as np

from kb.facts import Fact, Key, SearchMethod
from kb.filters import Filter
from kb.index.namespace import NamespaceIndex
from kb.index.search import relevance
from kb.index.segment import Vectors
from kb.index.terms import question_of


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A fact found by a search."""

    fact: Fact
    score: float
    """Inner product with the query."""
    lexical: float
    """The share of the question's words that the fact has, weighed by how much they tell: in [0, 1]."""
    rank_score: float
    """What the search ranked by."""
    vector: Vectors


@dataclass(frozen=True, slots=True)
class Page:
    """Some facts in the order of their ids; `next_cursor` continues after them (None: that was all)."""

    facts: tuple[Fact, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All facts and their indexes as of one version.

    Facts whose time is over at `now` (unix seconds) are left out by every method that takes it; the others
    count them until the store sweeps them.
    """

    version: int = 0
    by_key: immutables.Map[Key, Fact] = field(default_factory=immutables.Map)
    indexes: immutables.Map[str, NamespaceIndex] = field(default_factory=immutables.Map)
    changed: immutables.Map[str, int] = field(default_factory=immutables.Map)
    """The newest version that touched each namespace, empty ones too."""

    def count(self, namespace: str | None = None) -> int:
        """How many facts there are, in one namespace or in all."""
        if namespace is None:
            return len(self.by_key)
        return len(self._index(namespace))

    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that hold a fact, ascending."""
        return tuple(sorted(self.indexes))

    def version_of(self, namespaces: Collection[str] | None) -> int:
        """The newest version that touched one of them; 0: none did. None: of all, which is `version`."""
        if namespaces is None:
            return self.version
        return max((self.changed.get(name, 0) for name in namespaces), default=0)

    @property
    def tombstones(self) -> int:
        """Rows of deleted or replaced facts that index segments still hold until they are merged."""
        return sum(index.tombstones for index in self.indexes.values())

    @property
    def segments(self) -> int:
        """Index segments that a search of every namespace would read."""
        return sum(len(index.parts) for index in self.indexes.values())

    def find(self, namespace: str, fact_id: str) -> Fact | None:
        """The fact, whether or not its time is over."""
        return self.by_key.get((namespace, fact_id))

    def get(self, namespace: str, fact_id: str, now: float) -> Fact | None:
        """The fact, or None when there is none or its time is over."""
        fact = self.find(namespace, fact_id)
        return None if fact is None or fact.expired(now) else fact

    def list(self, namespace: str, limit: int, cursor: str | None, now: float, where: Filter | None = None) -> Page:
        """Up to `limit` facts that pass the filter, with ids greater than `cursor`, ascending."""
        found = tuple(islice(self._living(namespace, cursor or "", now, where), limit + 1))
        more = len(found) > limit
        return Page(found[:limit], found[limit - 1].id if more and limit > 0 else None)

    def facts(self, namespace: str | None, now: float, where: Filter | None = None) -> Iterator[Fact]:
        """Every fact of one namespace, or of all of them, that passes the filter, by namespace and id."""
        for name in self.namespaces() if namespace is None else (namespace,):
            yield from self._living(name, "", now, where)

    def values(self, namespace: str, field: str, after: str = "") -> Iterator[str]:
        """Strings greater than `after` that a field of the metadata has, ascending; of dead facts perhaps too."""
        return self._index(namespace).values(field, after)

    def search(
        self,
        namespace: str,
        vector: Vectors,
        k: int,
        min_score: float,
        now: float,
        min_best_score: float = -math.inf,
        *,
        text: str = "",
        method: SearchMethod = "hybrid",
        where: Filter | None = None,
    ) -> builtins.list[Hit]:
        """The (up to) k best facts for a question, best first, ties by id: by inner product with `vector`, by the words
        of `text`, or by both; of those that pass the filter, which changes no score.

        Those whose relevance (`kb.index.search.relevance`) is below `min_score` are left out. None at all if no
        relevance reaches `min_best_score`: facts about something else are worse than none.
        `vector` is float32 [dim] and should have unit length. Exact. ValueError when it has another shape.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, is {k}")
        query = np.ascontiguousarray(vector, dtype=np.float32)
        if query.ndim != 1:
            raise ValueError(f"the query must be one vector, has shape {query.shape}")
        found = self._index(namespace).search(query, k, now, question_of(text), method, where)
        relevances = [relevance(one.score, one.lexical, method) for one in found]
        if max(relevances, default=-math.inf) < min_best_score:
            return []
        return [
            Hit(self.by_key[namespace, one.id], one.score, one.lexical, one.rank_score(method), one.vector)
            for one, relevant in zip(found, relevances, strict=True)
            if relevant >= min_score
        ]

    def texts(self) -> Iterator[str]:
        """Every distinct text held by a fact."""
        yield from dict.fromkeys(fact.text for fact in self.by_key.values())

    def expired(self, now: float) -> Iterator[Fact]:
        """The facts whose time is over."""
        for namespace, index in self.indexes.items():
            for fact_id in index.expired(now):
                yield self.by_key[namespace, fact_id]

    def _living(self, namespace: str, after: str, now: float, where: Filter | None = None) -> Iterator[Fact]:
        for fact_id in self._index(namespace).ids(after, where):
            fact = self.by_key[namespace, fact_id]
            if not fact.expired(now):
                yield fact

    def _index(self, namespace: str) -> NamespaceIndex:
        return self.indexes.get(namespace, _NO_INDEX)


_NO_INDEX = NamespaceIndex()
