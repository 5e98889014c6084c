"""Edits that expect a fact to be at a version: refused wholly unless it is."""

from __future__ import annotations

from typing import Any

import pytest

from kb.facts import Delete, InvalidChange, Upsert, VersionConflict
from kb.store import Store


def texts(store: Store) -> dict[str, str]:
    return {fact.id: fact.text for fact in store.snapshot.facts("default", 0.0)}


def test_nothing_of_a_batch_is_applied_if_one_fact_is_not_as_expected(store: Store) -> None:
    store.apply([Upsert("a", "default", "one"), Upsert("b", "default", "two")])
    store.apply([Upsert("b", "default", "three")])
    batch = [
        Upsert("a", "default", "A", if_version=1),
        Upsert("b", "default", "B", if_version=1),
        Upsert("c", "default", "C", if_version=7),
        Upsert("a2", "default", "A2", if_version=0),
    ]
    with pytest.raises(VersionConflict) as caught:
        store.apply(batch)
    assert str(caught.value) == (
        "fact 'b' in namespace 'default' is at version 2, and is expected at version 1; "
        "fact 'c' in namespace 'default' does not exist, and is expected at version 7"
    )
    assert [one.final for one in caught.value.conflicts] == [True, False]
    assert (store.snapshot.version, texts(store)) == (2, {"a": "one", "b": "three"})
    store.apply([batch[0], Upsert("b", "default", "B", if_version=2), batch[3]])
    assert texts(store) == {"a": "A", "b": "B", "a2": "A2"}


def test_deleting_a_version(store: Store) -> None:
    store.apply([Upsert("a", "default", "one")])
    store.apply([Upsert("a", "default", "two")])
    with pytest.raises(VersionConflict, match="is at version 2, and is expected at version 1"):
        store.apply([Delete("a", "default", if_version=1)])
    store.apply([Delete("a", "default", if_version=2)])
    with pytest.raises(VersionConflict, match="does not exist"):
        store.apply([Delete("a", "default", if_version=2)])
    with pytest.raises(VersionConflict, match="does not exist"):
        store.apply([Upsert("a", "default", "three", if_version=2)])
    store.apply([Upsert("a", "default", "three", if_version=0)])
    with pytest.raises(VersionConflict, match="is at version 4, and is expected not to exist"):
        store.apply([Upsert("a", "default", "four", if_version=0)])


def test_a_fact_whose_time_is_over_does_not_exist(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.apply([Upsert("a", "default", "one", {}, 4e9)])
    prepared = store.prepare([Upsert("a", "default", "two", if_version=0)])
    expecting = store.prepare([Upsert("a", "default", "two", if_version=1)])
    with pytest.raises(VersionConflict):
        store.commit(prepared)
    monkeypatch.setattr("kb.writer.time.time", lambda: 4e9 + 1)
    with pytest.raises(VersionConflict, match="does not exist"):
        store.commit(expecting)
    assert store.commit(prepared).version == 2


@pytest.mark.parametrize("bad", [-1, True, "1", 1.0, 2**63])
def test_what_is_no_version_is_refused(store: Store, bad: Any) -> None:
    for change in (Upsert("a", "default", "one", if_version=bad), Delete("a", "default", if_version=bad)):
        with pytest.raises(InvalidChange, match="if_version"):
            store.apply([change])
    with pytest.raises(InvalidChange, match="if_version: must lie between 1"):
        store.apply([Delete("a", "default", if_version=0)])
