"""Readers and a writer at the same time, and the merging of segments behind their backs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pytest

from kb.facts import Upsert, VersionConflict
from kb.index import merging
from kb.index import namespace as index
from kb.index.merging import Row
from kb.index.namespace import NamespaceIndex
from kb.index.terms import question_of
from kb.snapshot import Snapshot
from kb.store import Store

NOW = 1_800_000_000.0


def state(snapshot: Snapshot, vector: Any) -> Any:
    hits = snapshot.search("default", vector, 20, -1.0, NOW, text="text 7")
    listed = [(fact.id, fact.text, fact.version) for fact in snapshot.facts("default", NOW)]
    return (
        snapshot.version,
        snapshot.count(),
        listed,
        [(hit.fact.id, hit.fact.text, hit.score, hit.lexical) for hit in hits],
    )


def test_a_snapshot_never_changes_while_edits_go_on(store: Store, encoder: Any) -> None:
    vector = encoder.embed(["query"])[0]
    stop = threading.Event()

    def edit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.apply([Upsert(f"f{number % 40}", "default", f"text {number}")])
            if number % 60 == 0:
                store.rollback(max(0, store.snapshot.version - 30))

    def watch() -> int:
        seen = 0
        while not stop.is_set():
            snapshot = store.snapshot
            first = state(snapshot, vector)
            listed, hits = first[2], first[3]
            # Index and facts of one snapshot agree.
            assert {item[:2] for item in hits} <= {item[:2] for item in listed}
            assert all(version <= snapshot.version for _, _, version in listed)
            time.sleep(0.002)
            assert state(snapshot, vector) == first
            seen += 1
        return seen

    with mock.patch.multiple(index, DELTA_ROWS=4), ThreadPoolExecutor(4) as pool:
        writer = pool.submit(edit)
        watchers = [pool.submit(watch) for _ in range(3)]
        time.sleep(2.5)
        stop.set()
        writer.result()
        assert all(watcher.result() > 10 for watcher in watchers)
    assert store.snapshot.version > 50


def test_versions_become_visible_before_they_are_acknowledged(store: Store) -> None:
    def edit(worker: int) -> None:
        for number in range(40):
            commit = store.apply([Upsert(f"w{worker}", "default", f"text {worker} {number}")])
            snapshot = store.snapshot
            assert snapshot.version >= commit.version
            fact = snapshot.find("default", f"w{worker}")
            assert fact is not None
            assert (fact.text, fact.version) == (f"text {worker} {number}", commit.version)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(edit, worker) for worker in range(4)]:
            future.result()
    assert store.snapshot.version == 160


def test_background_merges_empty_the_tombstones_and_change_no_answer(store: Store, encoder: Any) -> None:
    with mock.patch.object(index, "DELTA_ROWS", 8):
        for number in range(300):
            store.apply([Upsert(f"f{number % 50}", "default", f"text {number}")])
        deadline = time.monotonic() + 10
        while store.snapshot.indexes["default"].merge_plan() and time.monotonic() < deadline:
            time.sleep(0.01)
    parts = store.snapshot.indexes["default"].parts
    assert sum(len(part.segment) for part in parts) < 80
    assert len(parts) == store.snapshot.segments < 8
    assert store.merges > 0
    vector = encoder.embed(["query"])[0]
    expected = {f"f{number % 50}": f"text {number}" for number in range(250, 300)}
    scores = {name: float(encoder.embed([text])[0] @ vector) for name, text in expected.items()}
    best = sorted(scores, key=lambda name: (-scores[name], name))[:10]
    hits = store.snapshot.search("default", vector, 10, -1.0, NOW)
    assert [hit.fact.id for hit in hits] == best
    assert {hit.fact.text for hit in hits} == {expected[name] for name in best}


def row(fact_id: str, expires_at: float = np.inf) -> Row:
    vector = np.random.default_rng(abs(hash(fact_id)) % 2**32).standard_normal(8).astype(np.float32)
    return Row(fact_id, vector, f"row {fact_id}", expires_at)


@pytest.mark.parametrize("removed", [["a0"], ["a0", "b3", "c7"], []])
def test_rows_that_die_during_a_merge_stay_dead(removed: list[str]) -> None:
    with mock.patch.object(index, "DELTA_ROWS", 4):
        built = NamespaceIndex()
        for letter in "abc":
            built = built.edited((), [row(f"{letter}{number}") for number in range(8)])
        plan = built.merge_plan()
        assert plan
        merged = merging.built(plan)
        later = built.edited(removed, [row("z1")]).edited((), [row("z2")])
        result = later.replaced(plan, merged)
        assert result is not None
        query, asked = row("query").vector, question_of("row a3, row b3 or row c33")
        for one, other in zip(result.search(query, 30, 0.0, asked), later.search(query, 30, 0.0, asked), strict=True):
            assert one[:4] == other[:4]
            assert np.array_equal(one.vector, other.vector)
            assert np.array_equal(one.vector, row(one.id).vector)
        assert list(result.ids()) == list(later.ids())
        assert result.replaced(plan, merged) is None  # taken away already
        assert len(built) == 24
        assert built.tombstones == 0


def test_of_editors_who_read_the_same_version_one_wins(store: Store) -> None:
    """So that nobody's edit is lost: each adds one to what it has read, as often as it takes."""
    editors, times = 4, 15
    all_have_read = threading.Barrier(editors)

    def count(_: int) -> int:
        done, refused = 0, 0
        while done < times:
            held = store.snapshot.find("default", "count")
            number, version = (int(held.text), held.version) if held else (0, 0)
            if not done + refused:
                all_have_read.wait()
            try:
                store.apply([Upsert("count", "default", str(number + 1), if_version=version)])
                done += 1
            except VersionConflict:
                refused += 1
        return refused

    with ThreadPoolExecutor(editors) as pool:
        refused = sum(pool.map(count, range(editors)))
    held = store.snapshot.find("default", "count")
    assert held is not None
    assert (held.text, store.snapshot.version) == (str(editors * times), editors * times)
    assert refused >= editors - 1
