"""Subscribers are told of every published change, in order and once, whatever fails."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb.facts import Delete, FactNotFound, Upsert
from kb.publishing import Published
from kb.store import Store
from tests.kb.editing import StartEditor

IDS = st.sampled_from("abcd")
TEXTS = st.sampled_from([f"text {number}" for number in range(5)])
EDITS = st.fixed_dictionaries(
    {"upsert": st.dictionaries(IDS, TEXTS, min_size=1, max_size=3)},
    optional={"delete": st.lists(IDS, max_size=2, unique=True)},
)
ROLLBACKS = st.fixed_dictionaries({"rollback": st.integers(0, 6)})
# What fails while the edit is written: nothing, any fsync, the log's first one, the head marker's.
FAILURES = st.sampled_from([None, None, None, "", "once:facts.db-wal", "facts.db.head"])


@pytest.fixture
def published(store: Store) -> list[Published]:
    told: list[Published] = []
    store.subscribe(told.append)
    return told


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(FAILURES, EDITS | ROLLBACKS), min_size=1, max_size=15))
def test_what_is_told_adds_up_to_what_is_held(editors: StartEditor, steps: list[tuple[str | None, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        switch = Path(directory) / "failing"
        with editors(Path(directory) / "kb", switch) as editor:
            for failure, request in steps:
                if failure is not None:
                    switch.write_text(failure)
                editor.ask(**request)
                switch.unlink(missing_ok=True)
            editor.ask(upsert={"last": "the disk works again"})  # so what was logged before is published now
            told = editor.ask(published=True)
    log = [(entry.version, entry.kind, entry.upserted, entry.deleted) for entry in reversed(told["log"])]
    assert [event[:4] for event in told["events"]] == log
    assert [version for version, *_ in log] == list(range(1, len(log) + 1))
    held: set[str] = set()
    for *_, gone, now_held in told["events"]:
        assert len(gone) == len(set(gone))
        assert set(gone) == held - now_held
        held = now_held


def test_a_text_is_gone_only_with_its_last_fact(store: Store, published: list[Published]) -> None:
    store.apply([Upsert("a", "default", "same"), Upsert("b", "other", "same")])
    store.apply([Delete("a", "default")])
    store.apply([Upsert("b", "other", "same", {"x": 1})])
    store.apply([Upsert("b", "other", "new")])
    store.apply([Delete("b", "other")])
    assert [one.gone_texts for one in published] == [(), (), (), ("same",), ("new",)]
    assert list(store.snapshot.texts()) == []
    assert store.snapshot.namespaces() == ()


def test_every_kind_of_change_is_told_with_its_snapshot(store: Store, published: list[Published]) -> None:
    store.apply([Upsert("a", "default", "one"), Upsert("b", "default", "two", {}, 4e9)])
    store.sweep_expired(4e9)
    store.rollback(1)
    assert [(one.version, one.kind, one.upserted, one.deleted, one.gone_texts) for one in published] == [
        (1, "edit", 2, 0, ()),
        (2, "expiry", 0, 1, ("two",)),
        (3, "rollback", 1, 0, ()),
    ]
    assert [one.snapshot.count() for one in published] == [2, 1, 2]


def test_a_refused_edit_is_not_told(store: Store, published: list[Published]) -> None:
    with pytest.raises(FactNotFound):
        store.apply([Delete("a", "default")])
    assert published == []


def test_a_subscriber_that_fails_fails_nothing_else(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []

    def fail(published: Published) -> None:
        raise RuntimeError(f"cannot follow {published.version}")

    store.subscribe(fail)
    store.subscribe(lambda published: told.append(published.version))
    assert store.apply([Upsert("a", "default", "one")]).version == 1
    assert store.apply([Upsert("a", "default", "two")]).version == 2
    assert told == [1, 2]
    assert "cannot follow 2" in caplog.text


def test_who_unsubscribes_is_told_nothing_more(store: Store) -> None:
    told: list[int] = []

    def follow(published: Published) -> None:
        told.append(published.version)

    first, second = store.subscribe(follow), store.subscribe(follow)
    store.apply([Upsert("a", "default", "one")])
    for _ in range(2):
        first()
    store.apply([Upsert("a", "default", "two")])
    second()
    store.apply([Upsert("a", "default", "three")])
    assert told == [1, 1, 2]


def test_changes_are_told_in_the_writers_turn_before_the_edit_is_acknowledged(store: Store) -> None:
    told: list[tuple[int, int, int]] = []
    store.subscribe(lambda one: told.append((one.version, store.snapshot.version, threading.get_ident())))

    def edit(worker: int) -> None:
        for number in range(25):
            commit = store.apply([Upsert(f"w{worker}", "default", f"text {worker} {number}")])
            assert (commit.version, commit.version, threading.get_ident()) in told

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(edit, worker) for worker in range(4)]:
            future.result()
    assert [version for version, _, _ in told] == list(range(1, 101))
