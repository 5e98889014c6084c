"""Old history let go: what is kept says what it said, and what is not is refused by name."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb import retention
from kb.facts import Change, Delete, StoreCorrupt, Upsert, VersionGone
from kb.log import compaction
from kb.retention import KEPT_VERSIONS, Retention
from kb.store import Store
from kb.verification import verify
from tests.kb.hashing import HashEncoder

VERSIONS = 30
STEPS = st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2))


def edit(store: Store, number: int) -> None:
    changes: list[Change] = [Upsert(f"f{number % 7}", "default", f"text {number % 11}", {"n": number}, 4e9 + number)]
    changes.append(Upsert(f"g{number}", f"space{number % 3}", f"own {number}"))
    if number > 3:
        changes.append(Delete(f"g{number - 3}", f"space{number % 3}"))
    store.apply(changes)


def filled(directory: Path) -> Store:
    store = Store.open(directory, HashEncoder())
    for number in range(VERSIONS):
        edit(store, number)
    return store


def let_go(store: Store, cutoff: float = 5e9) -> int:
    total = 0
    while gone := store.compact(cutoff):
        total += gone
    return total


def everything(store: Store, oldest: int) -> Any:
    """All that can be asked of the versions from `oldest` on."""
    newest = store.snapshot.version
    histories = [
        [one for one in store.past.history(*key) if one.version > oldest] for key in sorted(store.snapshot.by_key)
    ]
    differences = [store.past.differences(*pair, 1000) for pair in ((oldest, newest), (newest, oldest))]
    states = [store.past.facts_at(version) for version in range(oldest, newest + 1)]
    entries = [entry for entry in store.past.log_entries() if entry.version > oldest]
    return dict(store.snapshot.by_key), dict(store.snapshot.changed), histories, differences, states, entries


def test_what_is_kept_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ENTRIES_PER_STEP", 1)
    with filled(tmp_path) as store:
        cutoff = store.past.log_entries()[9].created_at
        first_written = store.past.history("default", "f0")[-1]
        before = everything(store, 20)
        assert let_go(store, cutoff) == store.past.oldest() == 20
        assert everything(store, 20) == before
        assert first_written.version < store.past.history("default", "f0")[-1].version  # only of what the base says
    with Store.open(tmp_path, HashEncoder()) as store:
        assert everything(store, 20) == before
        assert verify_closed(store, tmp_path) == VERSIONS
        edit(store, VERSIONS)


def verify_closed(store: Store, directory: Path) -> int:
    """Of a copy: the store itself is open."""
    copy = directory / "copy"
    copy.mkdir()
    for name in ("facts.db", "facts.db-wal", "facts.db.head"):
        shutil.copy(directory / name, copy / name)
    return verify(copy).version


def test_what_is_not_kept_is_refused_by_name(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        assert let_go(store) == VERSIONS - KEPT_VERSIONS
        oldest = store.past.oldest()
        for ask in (
            lambda: store.rollback(oldest - 1),
            lambda: store.past.differences(oldest - 1, VERSIONS),
            lambda: store.past.differences(VERSIONS, 0),
            lambda: store.past.log_entries(before=oldest),
            lambda: store.past.log_entries(before=1, namespaces={"default"}),
            lambda: store.past.history("default", "f0", before=2),
        ):
            with pytest.raises(VersionGone, match=f"oldest version kept is {oldest}"):
                ask()
        assert [entry.version for entry in store.past.log_entries()] == [VERSIONS, VERSIONS - 1]
        assert store.past.log_entries(before=oldest + 1) == []
        # A fact that no kept batch touched is told with the batch that wrote it; whoever goes on below finds nothing.
        (written,) = store.past.history("default", "f2", limit=1)
        assert (written.version, written.kind, written.op, written.metadata) == (24, "edit", "upsert", {"n": 23})
        assert store.past.history("default", "f2", before=24) == []
        store.rollback(oldest)
        edit(store, VERSIONS)


def test_the_age_counts_and_the_newest_stay(tmp_path: Path) -> None:
    with filled(tmp_path) as store:
        assert let_go(store, cutoff=store.past.log_entries()[-1].created_at) == 0
        assert let_go(store) == VERSIONS - KEPT_VERSIONS
        assert let_go(store) == 0


def test_texts_that_are_gone_take_their_vectors_along(tmp_path: Path) -> None:
    def counted() -> tuple[int, int]:
        with closing(sqlite3.connect(tmp_path / "facts.db")) as connection:
            one = connection.execute("SELECT count(*) FROM embeddings").fetchone()[0]
            return one, len({fact.text for fact in store.snapshot.by_key.values()})

    with filled(tmp_path) as store:
        assert counted()[0] > counted()[1]
        let_go(store)
        stored, wanted = counted()
        assert wanted <= stored <= wanted + 3 * KEPT_VERSIONS
        assert b"own 1" in (tmp_path / "facts.db-wal").read_bytes()
    assert b'own 1"' not in (tmp_path / "facts.db").read_bytes()


@settings(max_examples=5)
@given(st.lists(STEPS, max_size=20), st.data())
def test_any_history_any_cut(steps: list[tuple[bool, int, int, int]], data: st.DataObject) -> None:
    """Facts, times and `changed` are those of a store that keeps everything, after a restart too."""
    with tempfile.TemporaryDirectory() as name:
        with Store.open(Path(name), HashEncoder()) as store:
            for delete, fact, text, cut in steps:
                key = ("default", f"f{fact}")
                gone = delete and key in store.snapshot.by_key
                store.apply([Delete(key[1], key[0]) if gone else Upsert(key[1], key[0], f"text {text}")])
                if cut == 0:
                    store.compact(5e9)
            expected, oldest = dict(store.snapshot.by_key), store.past.oldest()
            version = data.draw(st.integers(oldest, store.snapshot.version))
            states = store.past.facts_at(version)
            let_go(store)
            if store.past.oldest() <= version:
                assert store.past.facts_at(version) == states
            changed = dict(store.snapshot.changed)
        with Store.open(Path(name), HashEncoder()) as store:
            assert (dict(store.snapshot.by_key), dict(store.snapshot.changed)) == (expected, changed)


def test_edits_and_readers_go_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ENTRIES_PER_STEP", 2)
    over, failures = threading.Event(), list[BaseException]()

    def again(work: Any) -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    with filled(tmp_path) as store:
        reads = (
            lambda: store.compact(5e9),
            lambda: store.past.log_entries(5),
            lambda: store.past.history("default", "f1"),
            lambda: store.past.differences(store.snapshot.version, store.snapshot.version),
        )
        threads = [threading.Thread(target=again, args=(work,)) for work in reads]
        for thread in threads:
            thread.start()
        for number in range(VERSIONS, 2 * VERSIONS):
            edit(store, number)
        over.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.past.oldest() > VERSIONS / 2
        expected = dict(store.snapshot.by_key)
    with Store.open(tmp_path, HashEncoder()) as store:
        assert dict(store.snapshot.by_key) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE base_facts SET text = 'other' WHERE id = 'f1'",
        "DELETE FROM base_facts WHERE id = 'f1'",
        "UPDATE base_changes SET version = 1",
        "UPDATE bases SET version = version + 1",
        "UPDATE bases SET total = zeroblob(32)",
        "DELETE FROM bases",
    ],
)
def test_a_damaged_base_is_refused(tmp_path: Path, statement: str) -> None:
    with filled(tmp_path) as store:
        let_go(store)
    with closing(sqlite3.connect(tmp_path / "facts.db")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StoreCorrupt, match=r"facts\.db: "):
        Store.open(tmp_path, HashEncoder())


def test_a_damaged_base_is_not_copied_on(tmp_path: Path) -> None:
    """What a start did not read, since the state was saved, is found by what reads it."""
    with filled(tmp_path) as store:
        let_go(store)
        with closing(sqlite3.connect(tmp_path / "facts.db")) as connection, connection:
            connection.execute("UPDATE base_facts SET text = 'other' WHERE id = 'f1'")
        with pytest.raises(StoreCorrupt, match="base"):
            store.past.history("default", "f1")
        with pytest.raises(StoreCorrupt, match="base"):
            store.rollback(store.past.oldest())


def test_it_happens_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LEAST_AGE_S", -60.0)
    filled(tmp_path).close()
    with Store.open(tmp_path, HashEncoder(), history_days=1e-9) as store:
        deadline = time.monotonic() + 20
        while store.past.oldest() < VERSIONS - KEPT_VERSIONS:
            assert time.monotonic() < deadline
            time.sleep(0.002)


def test_a_failure_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.001)
    source, done = iter([OSError("the disk"), StoreCorrupt("facts.db", "damaged"), 3]), threading.Event()

    def compact(_: float) -> int:
        one = next(source, None)
        if isinstance(one, Exception):
            raise one
        if one is None:
            done.set()
        return one or 0

    caplog.set_level(logging.WARNING)
    running = Retention(compact, 1.0)
    assert done.wait(20)
    running.stop()
    assert len(caplog.records) == 2


def test_a_version_of_many_facts_goes_as_a_whole(tmp_path: Path) -> None:
    source = random.Random(1)
    with Store.open(tmp_path, HashEncoder()) as store:
        many = [Upsert(f"f{i}", "default", f"text {source.randrange(50)}") for i in range(900)]
        store.apply(many)
        store.rollback(0)
        for number in range(KEPT_VERSIONS):
            edit(store, number)
        assert let_go(store) == 2
        assert not [key for key in store.past.facts_at(2) if key[0] == "default"]
