"""The past, read out of the log: of one fact, of the store, and between two versions."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.facts import Delete, UnknownVersion, Upsert
from kb.log.batch import HASHED_AT_ONCE, Batch, Chaining, Entry, Values
from kb.store import Store

NOW = 4_000_000_000.0


def test_history_tells_every_version_newest_first(store: Store) -> None:
    store.apply([Upsert("a", "default", "one", {"n": 1}, NOW)])
    store.apply([Upsert("b", "default", "other")])
    store.apply([Upsert("a", "default", "two")])
    store.apply([Delete("a", "default")])
    store.rollback(1)
    history = store.past.history("default", "a")
    assert [(item.version, item.kind, item.op, item.text) for item in history] == [
        (5, "rollback", "upsert", "one"),
        (4, "edit", "delete", None),
        (3, "edit", "upsert", "two"),
        (1, "edit", "upsert", "one"),
    ]
    assert (history[-1].metadata, history[-1].expires_at) == ({"n": 1}, NOW)
    assert [item.version for item in store.past.history("default", "a", limit=2, before=5)] == [4, 3]
    assert store.past.history("default", "nobody") == []
    entries = [(entry.version, entry.kind, entry.upserted, entry.deleted) for entry in store.past.log_entries()]
    assert entries[:2] == [(5, "rollback", 1, 1), (4, "edit", 0, 1)]
    assert entries[2:] == [(version, "edit", 1, 0) for version in (3, 2, 1)]
    assert [entry.version for entry in store.past.log_entries(limit=2, before=4)] == [3, 2]


def test_differences_keep_nothing_of_what_is_not_asked_for(store: Store) -> None:
    """However many facts were changed beside those that differ, and however often."""
    text, versions = "word " * 200, 40
    for version in range(versions):
        others = [Upsert(f"other{i}", "default", f"{version} {i} {text}") for i in range(50)]
        store.apply([Upsert(f"a{version}", "default", "is told"), *others])
    tracemalloc.start()
    found = store.past.differences(0, versions, limit=versions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.key[1] for one in found.differences] == sorted(f"a{version}" for version in range(versions))
    assert peak < versions * 50 * len(text) / 2


def test_a_large_batch_is_read_in_slices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between which other threads get the interpreter."""
    slices: list[int] = []
    add = Chaining.add

    def noted(self: Chaining, some: Sequence[Values]) -> None:
        slices.append(len(some))
        add(self, some)

    many = 3 * HASHED_AT_ONCE + 1
    with monkeypatch.context() as patched:
        patched.setattr(Chaining, "add", noted)
        store.apply([Upsert(f"f{i}", "default", f"number {i}") for i in range(many)])
        assert len(store.past.differences(0, 1, limit=5).differences) == 5
        assert [one.text for one in store.past.history("default", "f7")] == ["number 7"]
    assert slices == 3 * [*[HASHED_AT_ONCE] * 3, 1]


@given(
    st.binary(min_size=32, max_size=32),
    st.floats(0, 4e9),
    st.lists(
        st.builds(Entry, *[st.text(max_size=5)] * 3, *[st.none() | st.text(max_size=9)] * 2, st.none() | st.floats(0))
    ),
    st.lists(st.integers(0, 9)),
)
def test_the_chain_does_not_depend_on_slices(previous: bytes, at: float, entries: list[Entry], cuts: list[int]) -> None:
    whole = orjson.dumps([7, at, "edit", [entry.values for entry in entries]])
    chain, rest = Chaining(previous, 7, at, "edit"), [entry.values for entry in entries]
    for cut in [*cuts, len(rest)]:
        chain.add(rest[:cut])
        rest = rest[cut:]
    expected = hashlib.sha256(previous + whole).digest()
    assert chain.digest() == expected
    assert Batch.following(previous, 7, at, "edit", entries).chain == expected


def test_differences_tell_what_two_versions_say(store: Store) -> None:
    store.apply([Upsert("a", "default", "one", {"n": 1}), Upsert("b", "default", "kept")])
    store.apply([Upsert("a", "default", "two"), Upsert("z", "default", "short-lived")])
    store.apply([Delete("z", "default"), Upsert("c", "other", "new"), Upsert("b", "default", "else")])
    store.apply([Upsert("b", "default", "kept")])

    def told(before: int, after: int, **page: Any) -> dict[str, tuple[str | None, str | None]]:
        found = store.past.differences(before, after, **page).differences
        return {"/".join(one.key): (one.before and one.before.text, one.after and one.after.text) for one in found}

    assert told(1, 4) == {"default/a": ("one", "two"), "other/c": (None, "new")}
    assert told(4, 1) == {"default/a": ("two", "one"), "other/c": ("new", None)}
    assert told(2, 3) == {"default/b": ("kept", "else"), "default/z": ("short-lived", None), "other/c": (None, "new")}
    assert told(0, 1) == {"default/a": (None, "one"), "default/b": (None, "kept")}
    assert told(3, 3) == {}
    first = store.past.differences(2, 3, limit=2)
    assert first.next_after == ("default", "z")
    assert told(2, 3, limit=2, start=first.next_after) == {"other/c": (None, "new")}
    assert store.past.differences(2, 3, limit=3).next_after is None
    store.apply([Upsert("a", "default", "two", {"n": 2})])
    (one,) = store.past.differences(4, 5).differences  # metadata count
    assert (one.before and one.before.metadata, one.after and one.after.metadata) == ("{}", '{"n":2}')
    for unknown in ((-1, 2), (1, 6)):
        with pytest.raises(UnknownVersion):
            store.past.differences(*unknown)
