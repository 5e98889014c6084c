"""Several stores on one log that lets its history go, and what each of them saves on its own disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import create_engine, text

from kb import saving
from kb.facts import Delete, StoreCorrupt, Upsert, VersionGone
from kb.following import Follower
from kb.log import compaction
from kb.log.location import Location
from kb.publishing import Published
from kb.store import Store
from kb.verification import verify
from tests.kb.hashing import HashEncoder

Open = Callable[..., Store]


@pytest.fixture
def replica(url: str) -> Iterator[Open]:
    """Opens stores on the same log, which follow it when they are told to."""
    with (
        mock.patch.multiple(Follower, start=mock.DEFAULT, stop=mock.DEFAULT),
        mock.patch.object(compaction, "ENTRIES_PER_STEP", 3),
        ExitStack() as opened,
    ):

        def another(encoder: Any = None, local: Path | None = None) -> Store:
            return opened.enter_context(Store.open(url, encoder or HashEncoder(), local=local))

        yield another


def edit(store: Store, number: int) -> None:
    store.apply([Upsert(f"f{number % 5}", "default", f"text {number}"), Upsert(f"g{number}", "other", f"own {number}")])
    if number > 2:
        store.apply([Delete(f"g{number - 2}", "other")])


def let_go(store: Store) -> int:
    total = 0
    while gone := store.compact(5e9):
        total += gone
    return total


def state(store: Store) -> Any:
    snapshot = store.snapshot
    return snapshot.version, dict(snapshot.by_key), dict(snapshot.changed), len(store.texts)


def test_who_is_behind_a_base_starts_from_it(replica: Open) -> None:
    one, late = replica(), replica()
    for number in range(3):
        edit(one, number)
    late.catch_up()
    told: list[Published] = []
    late.subscribe(told.append)
    for number in range(3, 12):
        edit(one, number)
    left = let_go(one)
    assert late.snapshot.version < left
    assert late.catch_up() == one.snapshot.version - 3
    assert state(late) == state(one)
    assert late.followed == one.snapshot.version
    assert told[0].version == left
    assert set(told[0].gone_texts) == {"text 0", "text 1", "text 2", "own 1", "own 2", "own 0"} - set(
        late.snapshot.texts()
    )
    for fact in late.snapshot.by_key.values():
        (hit,) = late.snapshot.search(fact.namespace, HashEncoder().embed([fact.text])[0], 1, 0.9, 0.0)
        assert hit.fact == fact
    edit(late, 12)
    one.catch_up()
    assert state(late) == state(one) == state(replica())


def test_an_edit_behind_a_base_is_built_on_it(replica: Open) -> None:
    one, late = replica(), replica()
    for number in range(12):
        edit(one, number)
    let_go(one)
    edit(late, 12)
    one.catch_up()
    assert state(late) == state(one)
    with pytest.raises(VersionGone):
        late.rollback(3)
    late.rollback(late.past.oldest())


def test_several_let_go_and_edit_at_once(replica: Open, url: str) -> None:
    stores, failures = [replica() for _ in range(3)], list[BaseException]()

    def work(store: Store, name: str) -> None:
        try:
            for number in range(12):
                store.apply([Upsert(f"{name}{number}", "default", f"{name} {number}")])
                store.compact(5e9)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(store, name)) for store, name in zip(stores, "abc", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for store in stores:
        store.catch_up()
        assert state(store) == state(stores[0])
    assert stores[0].past.oldest() > 0
    assert (verify(url).version, verify(url).facts) == (36, 36)


def test_a_replica_saves_its_state_and_reads_only_what_came_after(replica: Open, url: str, tmp_path: Path) -> None:
    def read(expected: Any) -> int:
        totals: list[int] = []
        with Store.open(url, HashEncoder(), local=tmp_path, progress=lambda done, total: totals.append(total)) as store:
            assert state(store) == expected
            return (totals[-1] if totals else 0) - store.snapshot.count()

    with mock.patch.object(saving, "LEAST_ENTRIES", 20):
        with Store.open(url, HashEncoder(), local=tmp_path) as store:
            for number in range(40):
                edit(store, number)
            expected = state(store)
        assert (tmp_path / "replica.state").exists()
        assert read(expected) < 60
        saved = (tmp_path / "replica.state").read_bytes()
        (tmp_path / "replica.state").write_bytes(saved[:-1])
        assert read(expected) == 40 * 2 + 37
        # Two on one disk: the second goes without.
        with Store.open(url, HashEncoder(), local=tmp_path) as store:
            assert state(replica(local=tmp_path)) == state(store) == expected


def test_a_state_of_a_log_that_was_replaced_is_not_used(url: str, tmp_path: Path) -> None:
    with mock.patch.object(saving, "LEAST_ENTRIES", 5), Store.open(url, HashEncoder(), local=tmp_path) as store:
        for number in range(9):
            edit(store, number)
    assert (tmp_path / "replica.state").exists()
    engine = create_engine(Location.of(url).url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE heads, batch_ids, batches, entries, embeddings"))
    engine.dispose()
    with Store.open(url, HashEncoder(), local=tmp_path) as store:
        assert store.snapshot.version == 0
        for number in range(12):
            edit(store, number)
        expected = state(store)
    with Store.open(url, HashEncoder(), local=tmp_path) as store:
        assert state(store) == expected


def test_a_damaged_base_is_not_followed(replica: Open, url: str) -> None:
    one, late = replica(), replica()
    for number in range(12):
        edit(one, number)
    let_go(one)
    engine = create_engine(Location.of(url).url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE base_facts SET text = 'other' WHERE id = 'f1'"))
    engine.dispose()
    with pytest.raises(StoreCorrupt, match="base"):
        late.catch_up()
    assert late.snapshot.version == 0
