"""Versions as one namespace sees them: what touched it last, what it tells of the past, and the way back."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from unittest import mock

import pytest

from kb.encoder.embeddings import EmbeddingCache
from kb.errors import StoreUnavailable
from kb.facts import Delete, Upsert
from kb.index.namespace import NamespaceIndex
from kb.log.fact_log import FactLog
from kb.store import Store
from tests.kb.hashing import HashEncoder


def _edited(path: Path) -> None:
    with Store.open(path, HashEncoder()) as store:
        store.apply([Upsert("x", "a", "One."), Upsert("y", "b", "Two.")])
        store.apply([Upsert("x", "a", "Three."), Upsert("z", "a", "Four.")])
        store.apply([Upsert("y", "b", "Five.")])
        store.apply([Delete("x", "a"), Delete("z", "a")])
        store.apply([Upsert("y", "b", "Six."), Upsert("w", "c", "Seven.")])


def _versions(store: Store) -> list[int]:
    return [store.snapshot.version_of(names) for names in ({"a"}, {"b"}, {"a", "c"}, {"none"}, (), None)]


def test_the_last_change_of_a_namespace_outlives_a_start(tmp_path: Path) -> None:
    _edited(tmp_path)
    with Store.open(tmp_path, HashEncoder()) as store:
        assert _versions(store) == [4, 5, 5, 0, 0, 5]
        store.apply([Upsert("n", "a", "Eight.")])
        assert _versions(store) == [6, 5, 6, 0, 0, 6]


def test_the_past_of_a_namespace_is_its_own(tmp_path: Path) -> None:
    _edited(tmp_path)
    with Store.open(tmp_path, HashEncoder()) as store:
        told = [(one.version, one.upserted, one.deleted) for one in store.past.log_entries(namespaces={"a"})]
        assert told == [(4, 0, 2), (2, 2, 0), (1, 1, 0)]
        assert [one.version for one in store.past.log_entries(1, 4, {"a"})] == [2]
        assert store.past.log_entries(namespaces=()) == []
        found = store.past.differences(1, 5, namespaces={"b"}).differences
        assert [(one.key, one.after and one.after.text) for one in found] == [(("b", "y"), "Six.")]


def test_the_way_back_of_a_namespace_leaves_the_others(tmp_path: Path) -> None:
    _edited(tmp_path)
    with Store.open(tmp_path, HashEncoder()) as store:
        done = store.rollback(2, {"a"})
        assert (done.upserted, done.deleted) == (2, 0)
        assert {fact.key: fact.text for fact in store.snapshot.facts(None, 0)} == {
            ("a", "x"): "Three.",
            ("a", "z"): "Four.",
            ("b", "y"): "Six.",
            ("c", "w"): "Seven.",
        }


def test_many_namespaces_slow_down_neither_a_start_nor_edits(tmp_path: Path) -> None:
    spaces = [f"space{number}" for number in range(200)]
    with Store.open(tmp_path, HashEncoder()) as store:
        store.apply([Upsert("x", name, f"Text {name}.") for name in spaces])
    with mock.patch.object(EmbeddingCache, "stored", autospec=True, side_effect=EmbeddingCache.stored) as stored:
        store = Store.open(tmp_path, HashEncoder())
    with store:
        assert stored.call_count == 1
        assert {fact.namespace: fact.text for fact in store.snapshot.facts(None, 0.0)} == {
            name: f"Text {name}." for name in spaces
        }
    with mock.patch.object(NamespaceIndex, "merge_plan", autospec=True, return_value=()) as looked_at:
        with Store.open(tmp_path, HashEncoder()) as store:
            until_called(looked_at, len(spaces))
            for number in range(5):
                store.apply([Upsert("x", "space7", f"Text {number}")])
        assert len(spaces) <= looked_at.call_count <= len(spaces) + 5


def test_a_start_that_fails_leaves_the_collector_on(tmp_path: Path) -> None:
    _edited(tmp_path)
    with mock.patch.object(FactLog, "scan", side_effect=StoreUnavailable("gone")), pytest.raises(StoreUnavailable):
        Store.open(tmp_path, HashEncoder())
    assert gc.isenabled()


def until_called(function: mock.Mock, times: int) -> None:
    deadline = time.monotonic() + 20
    while function.call_count < times:
        assert time.monotonic() < deadline
        time.sleep(0.001)
