"""Edits, one at a time: what they do, what they refuse, what they cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from kb.facts import Delete, FactNotFound, InvalidChange, Limits, StoreClosed, StoreLocked, UnknownVersion, Upsert
from kb.store import Store

NOW = 4_000_000_000.0


def texts(store: Store, now: float = NOW) -> dict[str, str]:
    return {fact.id: fact.text for fact in store.snapshot.facts("default", now)}


def test_an_upsert_is_visible_under_its_version(store: Store, encoder: Any) -> None:
    commit = store.apply([Upsert("ceo", "default", "Mara leads Zorvex.", {"source": ["a", 1, None]}, NOW + 1)])
    assert (commit.version, commit.upserted, commit.deleted) == (1, 1, 0)
    fact = store.snapshot.get("default", "ceo", NOW)
    assert fact is not None
    assert (fact.text, fact.metadata, fact.expires_at) == ("Mara leads Zorvex.", {"source": ["a", 1, None]}, NOW + 1)
    assert fact.version == store.snapshot.version == 1
    assert abs(fact.created_at - time.time()) < 60
    hits = store.snapshot.search("default", encoder.embed(["Mara leads Zorvex."])[0], 3, 0.0, NOW)
    assert [hit.fact for hit in hits] == [fact]
    assert hits[0].score == pytest.approx(1)


def test_an_upsert_replaces_the_fact_and_keeps_its_birth(store: Store) -> None:
    store.apply([Upsert("ceo", "default", "old", {"a": 1}, NOW + 9)])
    born = store.snapshot.find("default", "ceo")
    store.apply([Upsert("ceo", "default", "new")])
    fact = store.snapshot.get("default", "ceo", NOW)
    assert fact is not None
    assert born is not None
    assert (fact.text, fact.metadata, fact.expires_at, fact.version) == ("new", {}, None, 2)
    assert fact.created_at == born.created_at


def test_an_id_is_made_where_none_is_given(store: Store) -> None:
    prepared = store.prepare([Upsert(None, "default", "one"), Upsert(None, "default", "two")])
    ids = [change.id for change in prepared.changes]
    assert None not in ids
    assert len(set(ids)) == 2
    store.commit(prepared)
    assert set(texts(store)) == set(ids)


def test_deleting_an_unknown_fact_undoes_its_whole_batch(store: Store) -> None:
    store.apply([Upsert("a", "default", "one")])
    with pytest.raises(FactNotFound, match="no fact 'b'"):
        store.apply([Upsert("c", "default", "three"), Delete("b", "default")])
    with pytest.raises(FactNotFound):
        store.apply([Delete("a", "elsewhere")])
    assert texts(store) == {"a": "one"}
    assert store.snapshot.version == 1


def test_a_fact_that_vanished_after_prepare_is_noticed_by_commit(store: Store) -> None:
    store.apply([Upsert("a", "default", "one")])
    prepared = store.prepare([Upsert("b", "default", "two"), Delete("a", "default")])
    store.apply([Delete("a", "default")])
    with pytest.raises(FactNotFound):
        store.commit(prepared)
    assert texts(store) == {}


def test_unchanged_text_is_not_embedded_again(tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert("a", "default", "one")])
        store.apply([Upsert("a", "default", "one", {"seen": True})])
        store.apply([Delete("a", "default")])
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert("b", "default", "one")])
        store.rollback(1)
    assert encoder.embedded == ["one"]


INVALID: list[tuple[Any, str]] = [
    (Upsert("a", "default", ""), "text"),
    (Upsert("a", "default", " \n\t"), "text"),
    (Upsert("a", "default", "\u200b\u200d\ufeff\u2060"), "text"),
    (Upsert("a", "default", "\x1b\x07\x7f\u0085 \u2028\u00a0"), "text"),
    (Upsert("a", "default", "\u00ad\u034f\u115f\u3164\u2800\ufe0f\U000e0041"), "text"),
    (Upsert("a", "default", "nul\0"), "text"),
    (Upsert("a", "default", "half \ud83d"), "text"),
    (Upsert("a", "default", "x" * 4097), "text"),
    (Upsert("a", "default", 7), "text"),  # type: ignore[arg-type]
    (Upsert("", "default", "x"), "id"),
    (Upsert("..", "default", "x"), "id"),
    (Upsert("a/b", "default", "x"), "id"),
    (Upsert("ä", "default", "x"), "id"),
    (Upsert("a\n", "default", "x"), "id"),
    (Upsert("a" * 129, "default", "x"), "id"),
    (Upsert("a", "", "x"), "namespace"),
    (Upsert("a", "n" * 65, "x"), "namespace"),
    (Upsert("a", "default", "x", {"n": float("nan")}), "metadata"),
    (Upsert("a", "default", "x", {"n": [float("inf")]}), "metadata"),
    (Upsert("a", "default", "x", {"n": 2**64}), "metadata"),
    (Upsert("a", "default", "x", {"n": {"m": [1, -(2**63) - 1]}}), "metadata"),
    (Upsert("a", "default", "x", {1: "x"}), "metadata"),  # type: ignore[dict-item]
    (Upsert("a", "default", "x", {"n": {1, 2}}), "metadata"),  # type: ignore[dict-item]
    (Upsert("a", "default", "x", {"\udfff": 1}), "metadata"),
    (Upsert("a", "default", "x", {"n": "x" * 5000}), "metadata"),
    (Upsert("a", "default", "x", {"n": [[[[[[[[[[]]]]]]]]]]}), "metadata"),
    (Upsert("a", "default", "x", []), "metadata"),  # type: ignore[arg-type]
    (Upsert("a", "default", "x", {}, float("nan")), "expires_at"),
    (Upsert("a", "default", "x", {}, float("inf")), "expires_at"),
    (Upsert("a", "default", "x", {}, -1), "expires_at"),
    (Upsert("a", "default", "x", {}, 0), "expires_at"),
    (Upsert("a", "default", "x", {}, time.time()), "expires_at"),
    (Upsert("a", "default", "x", {}, True), "expires_at"),
    (Upsert("a", "default", "x", {}, "soon"), "expires_at"),  # type: ignore[arg-type]
    (Delete("", "default"), "id"),
    (Delete(None, "default"), "id"),  # type: ignore[arg-type]
    ("delete everything", "changes"),
]


@pytest.mark.parametrize(("change", "field"), INVALID, ids=lambda value: repr(value)[:40])
def test_a_bad_change_is_refused_by_field_and_position(store: Store, change: Any, field: str) -> None:
    with pytest.raises(InvalidChange) as caught:
        store.apply([Upsert("good", "default", "fine"), change])
    assert [(problem.index, problem.field) for problem in caught.value.problems] == [(1, field)]
    assert store.snapshot.version == 0


def test_a_batch_names_all_that_is_wrong_with_it(store: Store) -> None:
    past = time.time() - 1
    changes: list[Any] = [
        Upsert("a b", "default", "fine", {"n": 2**64}, past),
        Upsert("good", "default", "fine"),
        Upsert("c", "", " "),
        "delete everything",
        Delete("good", "default"),
        Upsert("good", "default", "x" * 5000),
    ]
    with pytest.raises(InvalidChange) as caught:
        store.apply(changes)
    assert [(problem.index, problem.field) for problem in caught.value.problems] == [
        (0, "id"),
        (0, "metadata"),
        (0, "expires_at"),
        (2, "namespace"),
        (2, "text"),
        (3, "changes"),
        (4, "id"),
        (5, "text"),
        (5, "id"),
    ]
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)


@pytest.mark.parametrize("text", ["1", "?", "字", "€", "👩\u200d🚒", "e\u0301", "\ue000", "\u200bx"])
def test_a_text_that_shows_is_taken(store: Store, text: str) -> None:
    store.apply([Upsert("a", "default", text)])
    assert texts(store) == {"a": text}


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 2**53 + 1])
def test_integers_of_64_bits_are_kept_exactly(tmp_path: Path, encoder: Any, number: int) -> None:
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert("a", "default", "x", {"n": [number]})])
    with Store.open(tmp_path, encoder) as store:
        assert store.snapshot.by_key["default", "a"].metadata == {"n": [number]}
        assert store.past.history("default", "a")[0].metadata == {"n": [number]}


def test_what_expired_meanwhile_is_still_replayed_and_rolled_back_to(
    tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = round(time.time() + 3600, 6)
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert("a", "default", "one", {}, soon)])
        store.apply([Upsert("a", "default", "two")])
        monkeypatch.setattr(time, "time", lambda: soon + 1)
        with pytest.raises(InvalidChange, match="past"):
            store.apply([Upsert("b", "default", "one", {}, soon)])
    with Store.open(tmp_path, encoder) as store:
        assert store.rollback(1).upserted == 1
        assert store.snapshot.by_key["default", "a"].expires_at == soon
        assert texts(store, time.time()) == {}
    with Store.open(tmp_path, encoder) as store:
        assert store.snapshot.by_key["default", "a"].text == "one"


def test_batches_are_bounded_and_name_a_fact_once(tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path, encoder, limits=Limits(batch_changes=3)) as store:
        with pytest.raises(InvalidChange, match="at least one"):
            store.apply([])
        with pytest.raises(InvalidChange, match="at most 3") as caught:
            store.apply([Upsert(None, "default", "x")] * 4)
        assert caught.value.problems[0].field == "changes"
        with pytest.raises(InvalidChange) as caught:
            store.apply([Upsert("a", "default", "x"), Upsert("a", "other", "x"), Delete("a", "default")])
        assert [(problem.index, problem.field) for problem in caught.value.problems] == [(2, "id")]
        # A rollback is one batch, however much it restores.
        store.apply([Upsert(f"a{n}", "default", "x") for n in range(3)])
        store.apply([Upsert(f"b{n}", "default", "x") for n in range(3)])
        assert store.rollback(0).deleted == 6
        assert store.rollback(2).upserted == 6


def test_metadata_given_by_the_caller_can_change_afterwards(store: Store) -> None:
    inner: list[Any] = [1]
    store.apply([Upsert("a", "default", "x", {"n": inner})])
    inner.append(2)
    fact = store.snapshot.find("default", "a")
    assert fact is not None
    assert fact.metadata == {"n": [1]}


def test_rollback_restores_content_under_a_new_version(store: Store) -> None:
    store.apply([Upsert("a", "default", "one", {"flag": 1}), Upsert("kept", "default", "kept")])
    store.apply([Upsert("a", "default", "one", {"flag": True}), Upsert("b", "default", "two")])
    commit = store.rollback(1)
    assert (commit.version, commit.upserted, commit.deleted) == (3, 1, 1)
    fact, kept = store.snapshot.find("default", "a"), store.snapshot.find("default", "kept")
    assert fact is not None
    assert kept is not None
    assert fact.metadata["flag"] is not True
    assert (fact.version, kept.version) == (3, 1)
    assert store.rollback(3).version == 4  # to the present: a version all the same
    for unknown in (-1, 5):
        with pytest.raises(UnknownVersion):
            store.rollback(unknown)


def test_an_expired_fact_is_gone_before_it_is_swept(store: Store, encoder: Any) -> None:
    store.apply([Upsert("a", "default", "one", {}, NOW), Upsert("b", "default", "two", {}, NOW + 5)])
    store.apply([Upsert("c", "default", "three")])
    vector = encoder.embed(["one"])[0]

    def found(now: float) -> set[str]:
        return {hit.fact.id for hit in store.snapshot.search("default", vector, 3, -1.0, now)}

    assert found(NOW - 1) == {"a", "b", "c"}
    assert found(NOW) == {"b", "c"}
    assert store.snapshot.get("default", "a", NOW) is None
    assert set(texts(store, NOW)) == {"b", "c"}
    assert store.sweep_expired(NOW - 1) is None
    swept = store.sweep_expired(NOW)
    assert swept is not None
    assert (swept.version, swept.deleted) == (3, 1)
    assert store.snapshot.count("default") == 2
    assert store.past.history("default", "a")[0].kind == "expiry"
    store.sweep_expired(NOW + 5)
    assert found(NOW + 5) == {"c"}


def test_pages_follow_the_ids(store: Store) -> None:
    store.apply([Upsert(f"f{n:02}", "default", f"text {n}", {}, NOW if n == 3 else None) for n in range(10)])
    seen, cursor = [], None
    while True:
        page = store.snapshot.list("default", 4, cursor, NOW)
        seen.append([fact.id for fact in page.facts])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [["f00", "f01", "f02", "f04"], ["f05", "f06", "f07", "f08"], ["f09"]]
    assert store.snapshot.list("nowhere", 4, None, NOW).facts == ()


def test_one_process_at_a_time(tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert("a", "default", "one")])
        with pytest.raises(StoreLocked, match="another process"):
            Store.open(tmp_path, encoder)
        assert texts(store) == {"a": "one"}
    with pytest.raises(StoreClosed):
        store.apply([Upsert("a", "default", "two")])
    with pytest.raises(StoreClosed):
        store.past.history("default", "a")
    store.close()
    with Store.open(f"sqlite:///{tmp_path}/facts.db", encoder) as store:
        assert texts(store) == {"a": "one"}


def test_opening_reports_progress_to_the_end(tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert(f"a{n}", "default", f"text {n}") for n in range(20)])
        store.apply([Delete("a0", "default")])
    calls: list[tuple[int, int]] = []
    Store.open(tmp_path, encoder, progress=lambda done, total: calls.append((done, total))).close()
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (40, 40)
