"""The saved state: what a start reads instead of old history, and what finds damage in the history that is left."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kb import saving
from kb.facts import Delete, StoreCorrupt, Upsert
from kb.log import sqlite
from kb.log.damage import damage
from kb.log.fact_log import FactLog
from kb.log.location import Location
from kb.log.state import State, read_state, write_state
from kb.store import Store
from kb.verification import accept_log, verify

VERSIONS = 60
STATE = "facts.db.state"


@pytest.fixture(autouse=True)
def saved_often() -> Iterator[None]:
    with mock.patch.object(saving, "LEAST_ENTRIES", 20):
        yield


def change(store: Store, number: int) -> None:
    store.apply([Upsert(f"f{number % 9}", "default", f"text {number}", {"n": [number, 1.0, True]}, 4e9 + number)])


def content(store: Store) -> Any:
    return store.snapshot.version, sorted(map(repr, store.snapshot.by_key.values()))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_encoder: Callable[[], Any]) -> tuple[Path, Any]:
    """A store of sixty versions whose state was last saved at one from 20 to 40; and its content."""
    directory = tmp_path_factory.mktemp("sound")
    with mock.patch.object(saving, "LEAST_ENTRIES", 20), Store.open(directory, make_encoder()) as store:
        for number in range(40):
            change(store, number)
    with mock.patch.object(saving, "LEAST_ENTRIES", 1000), Store.open(directory, make_encoder()) as store:
        for number in range(40, VERSIONS - 1):
            change(store, number)
        store.apply([Delete("f1", "default")])
        expected = content(store)
    assert (directory / STATE).exists()
    return directory, expected


@pytest.fixture
def copy(sound: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[0], tmp_path / "kb"))


def entries_read(directory: Path, encoder: Any, expected: Any) -> int:
    """Opens the store and counts the log entries that this took."""
    totals: list[int] = []
    with Store.open(directory, encoder, progress=lambda done, total: totals.append(total)) as store:
        assert content(store) == expected
        return totals[-1] - store.snapshot.count()


def damaged(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "facts.db")) as connection, connection:
        connection.execute(statement)


def test_a_start_reads_only_what_came_after_the_state(sound: Any, copy: Path, encoder: Any) -> None:
    assert entries_read(copy, encoder, sound[1]) <= VERSIONS - 20
    (copy / STATE).unlink()
    assert entries_read(copy, encoder, sound[1]) == VERSIONS
    assert entries_read(copy, encoder, sound[1]) == 0  # the long replay was worth saving
    assert verify(copy).version == VERSIONS


def test_a_state_that_is_torn_or_changed_is_not_used(sound: Any, copy: Path, encoder: Any) -> None:
    data = (copy / STATE).read_bytes()
    source = random.Random(6)
    offsets = [0, 3, len(data) - 1, *(source.randrange(len(data)) for _ in range(12))]
    flipped = [data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :] for offset in offsets]
    cut = [data[:length] for length in (0, 31, 32, len(data) // 2, len(data) - 1)]
    for torn in [*flipped, *cut, data + b"\n"]:
        (copy / STATE).write_bytes(torn)
        assert entries_read(copy, encoder, sound[1]) == VERSIONS


def test_the_state_of_another_log_is_not_used(sound: Any, copy: Path, tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path / "other", encoder) as other:
        for number in range(VERSIONS):
            change(other, number + 1)
    shutil.copy(tmp_path / "other" / STATE, copy / STATE)
    assert entries_read(copy, encoder, sound[1]) == VERSIONS


def test_a_store_restored_from_a_backup_does_not_use_a_newer_state(sound: Any, copy: Path, encoder: Any) -> None:
    with Store.open(copy, encoder) as store:
        for number in range(30):
            change(store, number)
    for name in ("facts.db", "facts.db.head"):
        shutil.copy(sound[0] / name, copy / name)
    assert entries_read(copy, encoder, sound[1]) == VERSIONS


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET text = 'other' WHERE version = 5",
        "UPDATE entries SET metadata = '{}' WHERE version = 5",
        "UPDATE entries SET op = 'delete', text = NULL WHERE version = 5",
        "DELETE FROM entries WHERE version = 5",
        "UPDATE batches SET created_at = 0 WHERE version = 5",
        "DELETE FROM batches WHERE version = 5",
    ],
)
def test_damage_to_history_that_a_start_does_not_read_is_found_by_what_reads_it(
    sound: Any, copy: Path, encoder: Any, statement: str
) -> None:
    damaged(copy, statement)
    with Store.open(copy, encoder) as store:
        assert content(store) == sound[1]
        for read in (lambda: store.past.log_entries(), lambda: store.rollback(7)):
            with pytest.raises(StoreCorrupt, match=r"facts\.db: .*damaged at version [56]"):
                read()
        if not statement.startswith("DELETE FROM entries"):  # then the fact's history does not lead there
            with pytest.raises(StoreCorrupt, match=r"facts\.db: .*damaged at version 5"):
                store.past.history("default", "f4")
        assert content(store) == sound[1]
    for check in (verify, accept_log):
        with pytest.raises(StoreCorrupt, match=r"facts\.db: .*damaged at version 5"):
            check(copy)


def test_damage_after_the_state_is_found_at_the_start(copy: Path, encoder: Any) -> None:
    damaged(copy, f"UPDATE entries SET id = 'f0' WHERE version = {VERSIONS}")
    with pytest.raises(StoreCorrupt, match=rf"facts\.db: .*damaged at version {VERSIONS}"):
        Store.open(copy, encoder)


def test_a_state_that_says_something_else_than_its_log_is_found_by_verify(copy: Path, encoder: Any) -> None:
    saved = read_state(copy / STATE)
    assert saved is not None
    write_state(copy / STATE, State(saved.head, {}))
    with pytest.raises(StoreCorrupt, match=r"facts\.db\.state: its facts are not those of version"):
        verify(copy)


def test_a_state_that_cannot_be_saved_costs_no_edit(
    tmp_path: Path, encoder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / STATE).mkdir()
    with Store.open(tmp_path, encoder) as store:
        for number in range(VERSIONS):
            change(store, number)
        expected = content(store)
    assert "could not be saved" in caplog.text
    assert list(tmp_path.glob("*.part")) == []
    assert entries_read(tmp_path, encoder, expected) == VERSIONS


class _Endless:
    """A connection to a database so large that SQLite's check of it never ends by itself."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def execute(self, statement: str) -> sqlite3.Cursor:
        assert "integrity_check" in statement
        return self._driver.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i FROM n) SELECT max(i) FROM n"
        )

    def interrupt(self) -> None:
        self._driver.interrupt()


def test_the_check_of_a_large_database_stops_in_time(
    copy: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "damage", lambda driver, seconds: damage(_Endless(driver), seconds))
    caplog.set_level(logging.WARNING)
    FactLog(Location.of(copy), check_seconds=0.001).close()
    assert "kalmagrove kb verify" in caplog.text
    monkeypatch.undo()
    caplog.clear()
    assert verify(copy).facts > 0
    assert caplog.text == ""
