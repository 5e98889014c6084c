"""The store against a model of it: a plain dict and brute-force search."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kb import saving
from kb.facts import Change, Delete, FactNotFound, Key, SearchMethod, Upsert, VersionConflict, VersionGone
from kb.filters import read_filter
from kb.index import namespace as index
from kb.index.search import relevance
from kb.log import compaction
from kb.store import Store
from tests.kb.reference import FILTERS, METADATA, ranked, satisfies

Content = dict[Key, tuple[str, Any, float | None]]

NAMESPACES = st.sampled_from(["default", "other"])
IDS = st.sampled_from([f"f{number}" for number in range(12)])
# Few texts, so that facts share them and scores tie; some share words, or words alike.
TEXTS = st.sampled_from(["text 0", "text 1", "a text of zorvex", "zorvax text", "XK-4471", "日本語"])
QUESTIONS = st.sampled_from(["", "zorvex", "which text?", "zorvx 4471", "日本", "text 1 text"])
METHODS = st.sampled_from(get_args(SearchMethod))
TIMES = range(4_000_000_000, 4_000_000_022)
EXPIRY = st.none() | st.sampled_from(TIMES[:-1]).map(float)
UPSERTS = st.builds(Upsert, IDS, NAMESPACES, TEXTS, METADATA, EXPIRY)
DELETES = st.builds(Delete, IDS, NAMESPACES)
BATCHES = st.lists(UPSERTS | DELETES, min_size=1, max_size=8, unique_by=lambda change: (change.namespace, change.id))


class StoreMachine(RuleBasedStateMachine):
    encoder_factory: Callable[[], Any]

    @initialize()
    def open_store(self) -> None:
        # Tiny segments, so that a few edits seal and merge many of them.
        # And the state is saved often, so that it is what most openings start from.
        self.small = ExitStack()
        self.small.enter_context(mock.patch.multiple(index, DELTA_ROWS=3, DELTA_VALUES=12))
        self.small.enter_context(mock.patch.object(saving, "LEAST_ENTRIES", 5))
        self.small.enter_context(mock.patch.object(compaction, "ENTRIES_PER_STEP", 6))
        self.directory = Path(tempfile.mkdtemp())
        self.encoder = self.encoder_factory()
        self.store = Store.open(self.directory, self.encoder)
        self.content: Content = {}
        self.versions: list[Content] = [{}]
        self.touched: dict[Key, int] = {}
        self.oldest = 0

    def teardown(self) -> None:
        self.store.close()
        self.small.close()
        shutil.rmtree(self.directory)

    def _new_version(self, content: Content) -> None:
        version = len(self.versions)
        for key in content.keys() | self.content.keys():
            if repr(content.get(key)) != repr(self.content.get(key)):
                self.touched[key] = version
        self.content = content
        self.versions.append(content)
        assert self.store.snapshot.version == version

    @rule(changes=BATCHES)
    def edit(self, changes: list[Change]) -> None:
        content = dict(self.content)
        missing = [change for change in changes if isinstance(change, Delete)]
        missing = [change for change in missing if (change.namespace, change.id) not in content]
        if missing:
            with pytest.raises(FactNotFound) as caught:
                self.store.apply(changes)
            assert (caught.value.namespace, caught.value.fact_id) == (missing[0].namespace, missing[0].id)
            return
        for change in changes:
            key = (change.namespace, str(change.id))
            if isinstance(change, Delete):
                del content[key]
            else:
                content[key] = (change.text, change.metadata, change.expires_at)
                self.touched[key] = len(self.versions)
        self.store.apply(changes)
        self._new_version(content)

    @rule(changes=BATCHES, expected=st.lists(st.sampled_from(["held", "none", "other", "any"]), min_size=8, max_size=8))
    def conditional_edit(self, changes: list[Change], expected: list[str]) -> None:
        """It is the edit without conditions, or it is refused."""
        conditional, refused = [], []
        for place, (change, what) in enumerate(zip(changes, expected, strict=False)):
            key = (change.namespace, str(change.id))
            held = self.touched[key] if key in self.content else 0
            version = {"held": held, "none": 0, "other": held + 1, "any": None}[what]
            if version == 0 and isinstance(change, Delete):
                version = None
            conditional.append(replace(change, if_version=version))
            if version not in (None, held):
                refused.append((place, *key, version, held or None))
        if not refused:
            self.edit(conditional)
            return
        with pytest.raises(VersionConflict) as caught:
            self.store.apply(conditional)
        assert [(o.index, o.namespace, o.fact_id, o.expected, o.current) for o in caught.value.conflicts] == refused

    @rule(back=st.integers(0, 5))
    def rollback(self, back: int) -> None:
        version = max(0, len(self.versions) - 1 - back)
        if version < self.oldest:
            with pytest.raises(VersionGone, match=f"oldest version kept is {self.oldest}"):
                self.store.rollback(version)
            return
        self.store.rollback(version)
        self._new_version(self.versions[version])

    @rule(back=st.integers(0, 5))
    def look_back(self, back: int) -> None:
        version = max(self.oldest, len(self.versions) - 1 - back)
        past = {
            fact.key: (fact.text, fact.metadata, fact.expires_at) for fact in self.store.past.facts_at(version).values()
        }
        assert repr(sorted(past.items())) == repr(sorted(self.versions[version].items()))
        told = {one.key: one for one in self.store.past.differences(version, len(self.versions) - 1, 100).differences}
        for key in past.keys() | self.content.keys():
            if repr(past.get(key)) != repr(self.content.get(key)):
                before, after = told[key].before, told[key].after
                assert (before and before.text) == (past[key][0] if key in past else None)
                assert (after and after.text) == (self.content[key][0] if key in self.content else None)

    @rule()
    def let_history_go(self) -> None:
        """Some of it; the newest two versions stay."""
        gone = self.store.compact(math.inf)
        self.oldest += gone
        assert self.store.past.oldest() == self.oldest
        assert gone > 0 or self.oldest >= len(self.versions) - 1 - 2

    @rule(now=st.sampled_from(TIMES))
    def sweep(self, now: int) -> None:
        content = {key: value for key, value in self.content.items() if value[2] is None or value[2] > now}
        commit = self.store.sweep_expired(float(now))
        if commit is None:
            assert content == self.content
        else:
            assert commit.deleted == len(self.content) - len(content) > 0
            self._new_version(content)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.directory, self.encoder)

    @rule(
        text=TEXTS,
        asked=QUESTIONS,
        method=METHODS,
        namespace=NAMESPACES,
        k=st.integers(1, 14),
        now=st.sampled_from(TIMES),
        least=st.integers(-1, 0),
        asked_of=st.none() | FILTERS,
    )
    def search(
        self,
        text: str,
        asked: str,
        method: SearchMethod,
        namespace: str,
        k: int,
        now: int,
        least: int,
        asked_of: Any,
    ) -> None:
        """As if the facts that satisfy the filter were picked out of all that an unbounded search finds."""
        query = self.encoder.embed([text])[0]
        living = {
            fact_id: fact_text
            for (space, fact_id), (fact_text, _, expires_at) in self.content.items()
            if space == namespace and (expires_at is None or expires_at > now)
        }
        scores = {
            fact_id: float(np.dot(self.encoder.embed([text])[0].astype(np.float64), query.astype(np.float64)))
            for fact_id, text in living.items()
        }
        passing = [one for one in ranked(living, scores, asked, method) if self._passes(namespace, one[0], asked_of)]
        expected = [one for one in passing[:k] if relevance(one[1], one[2], method) >= least]
        where = None if asked_of is None else read_filter(asked_of)
        found = self.store.snapshot.search(
            namespace, query, k, float(least), float(now), text=asked, method=method, where=where
        )
        assert [(hit.fact.id, round(hit.score, 9), round(hit.lexical, 9)) for hit in found] == expected

    def _passes(self, namespace: str, fact_id: str, asked_of: Any) -> bool:
        return asked_of is None or satisfies(self.content[namespace, fact_id][1], asked_of)

    @rule(
        namespace=NAMESPACES,
        limit=st.integers(1, 5),
        now=st.sampled_from(TIMES),
        cursor=st.none() | IDS,
        asked_of=st.none() | FILTERS,
    )
    def page(self, namespace: str, limit: int, now: int, cursor: str | None, asked_of: Any) -> None:
        living = sorted(
            fact_id
            for (space, fact_id), (_, _, expires_at) in self.content.items()
            if space == namespace and (expires_at is None or expires_at > now) and fact_id > (cursor or "")
            if self._passes(namespace, fact_id, asked_of)
        )
        where = None if asked_of is None else read_filter(asked_of)
        page = self.store.snapshot.list(namespace, limit, cursor, float(now), where)
        assert [fact.id for fact in page.facts] == living[:limit]
        assert page.next_cursor == (living[limit - 1] if len(living) > limit else None)

    @invariant()
    def holds_the_content(self) -> None:
        snapshot = self.store.snapshot
        assert snapshot.version == len(self.versions) - 1
        held = {fact.key: (fact.text, fact.metadata, fact.expires_at) for fact in snapshot.by_key.values()}
        assert repr(sorted(held.items())) == repr(sorted(self.content.items()))
        assert snapshot.count() == len(self.content)
        for key in self.content:
            fact = snapshot.find(*key)
            assert fact is not None
            assert fact.version == self.touched[key]
        for namespace in ("default", "other"):
            assert snapshot.count(namespace) == sum(key[0] == namespace for key in self.content)
        assert snapshot.namespaces() == tuple(sorted({key[0] for key in self.content}))


def test_the_store_does_what_a_dict_does(make_encoder: Callable[[], Any]) -> None:
    StoreMachine.encoder_factory = staticmethod(make_encoder)
    StoreMachine.TestCase.settings = settings(
        max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    StoreMachine.TestCase("runTest").runTest()
