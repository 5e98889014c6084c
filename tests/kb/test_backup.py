"""Backups: of one version whatever goes on, sealed when they are whole, and brought back only if they are sound."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kb.backup.file import APPLICATION_ID, close_up, copy_out
from kb.backup.making import NotOverwritten, back_up
from kb.backup.restoring import restore
from kb.errors import KnowledgeError, StoreLocked
from kb.facts import Delete, StoreCorrupt, StoreUnavailable, Upsert
from kb.store import Store
from kb.verification import verify
from tests.kb.hashing import HashEncoder

DEATHS = int(os.environ.get("DEATHS", "200"))
SEED = int(os.environ.get("SEED", "1"))


def changed(file: Path, target: Path, statement: str) -> None:
    """A backup that says something else, and is none the less sealed."""
    copy_out(file, target)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute(statement)
    close_up(target)


def fill(place: Path | str, versions: int = 12) -> Any:
    with Store.open(place, HashEncoder()) as store:
        for number in range(versions):
            store.apply([Upsert(f"f{number % 5}", "default", f"text {number}", {"n": number}, 4e9 + number)])
        store.apply([Delete("f1", "default"), Upsert("o", "other", "ein schöner Satz")])
        return content(store)


def content(store: Store) -> Any:
    histories = {key: store.past.history(*key) for key in sorted(store.snapshot.by_key)}
    return store.snapshot.version, dict(store.snapshot.by_key), histories, store.past.log_entries()


def held(place: Path | str) -> Any:
    with Store.open(place, HashEncoder()) as store:
        return content(store)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A backup, and what it is of."""
    directory = tmp_path_factory.mktemp("sound")
    expected = fill(directory / "kb")
    back_up(directory / "kb", directory / "backup")
    return directory / "backup", expected


def test_a_restored_store_is_the_one_backed_up(sound: Any, tmp_path: Path) -> None:
    found = restore(sound[0], tmp_path / "new")
    assert (found.version, found.facts) == (13, 5)
    encoder = HashEncoder()
    with Store.open(tmp_path / "new", encoder) as store:
        assert content(store) == sound[1]
        assert encoder.embedded == []  # vectors come along
        assert store.apply([Upsert("a", "default", "goes on")]).version == 14
    assert verify(tmp_path / "new").version == 14


def test_with_a_base_and_edits_going_on(tmp_path: Path) -> None:
    """Each backup is of one version that was there."""
    over, states = threading.Event(), dict[int, Any]()

    def edit() -> None:
        number = 0
        while not over.is_set():
            number += 1
            store.apply([Upsert(f"f{number % 4}", "default", f"text {number}"), Upsert("last", "default", str(number))])
            states[store.snapshot.version] = dict(store.snapshot.by_key)
            store.compact(5e9)

    with Store.open(tmp_path / "kb", HashEncoder()) as store:
        thread = threading.Thread(target=edit)
        thread.start()
        while len(states) < 5:
            time.sleep(0.001)
        made = [back_up(tmp_path / "kb", tmp_path / str(number)) for number in range(3)]
        over.set()
        thread.join()
    for number, found in enumerate(made):
        assert restore(tmp_path / str(number), tmp_path / f"new{number}") == found
        assert held(tmp_path / f"new{number}")[:2] == (found.version, states[found.version])
    assert made[0].version < made[-1].version


def files(directory: Path) -> dict[str, bytes]:
    """What is in them, but for SQLite's shared memory."""
    found = (path for path in directory.iterdir() if path.is_file() and not path.name.endswith("-shm"))
    return {path.name: path.read_bytes() for path in found}


def test_a_store_as_kill_9_left_it_is_backed_up_and_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "open", HashEncoder()) as store:
        store.apply([Upsert("a", "default", "in the write-ahead log")])
        shutil.copytree(tmp_path / "open", tmp_path / "killed")
    before = files(tmp_path / "killed")
    assert before["facts.db-wal"]
    assert back_up(tmp_path / "killed", tmp_path / "backup").version == 1
    after = files(tmp_path / "killed")
    assert after == before
    # What is acknowledged and not there is no backup.
    (tmp_path / "killed" / "facts.db-wal").write_bytes(before["facts.db-wal"][:-4096])
    with pytest.raises(StoreCorrupt, match="lost its end"):
        back_up(tmp_path / "killed", tmp_path / "another")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "killed", "open"]


def test_what_is_there_stays_unless_told(sound: Any, tmp_path: Path) -> None:
    expected = fill(tmp_path / "kb", 3)
    (tmp_path / "file").write_text("something else")
    with pytest.raises(NotOverwritten):
        back_up(tmp_path / "kb", tmp_path / "file")
    with pytest.raises(NotOverwritten):
        restore(sound[0], tmp_path / "kb")
    assert held(tmp_path / "kb") == expected
    with Store.open(tmp_path / "kb", HashEncoder()), pytest.raises(StoreLocked):
        restore(sound[0], tmp_path / "kb", overwrite=True)
    for number in range(5, 20):  # more than the backup has
        with Store.open(tmp_path / "kb", HashEncoder()) as store:
            store.apply([Upsert("z", "default", str(number))])
    restore(sound[0], tmp_path / "kb", overwrite=True)
    assert held(tmp_path / "kb") == sound[1]
    back_up(tmp_path / "kb", tmp_path / "file", overwrite=True)
    # An empty store is nothing; one whose database is lost is something.
    Store.open(tmp_path / "empty", HashEncoder()).close()
    assert restore(tmp_path / "file", tmp_path / "empty").version == 13
    (tmp_path / "empty" / "facts.db").unlink()
    with pytest.raises(NotOverwritten):
        restore(sound[0], tmp_path / "empty")


def test_what_is_no_backup_is_refused(sound: Any, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all")
    (tmp_path / "short").write_bytes(sound[0].read_bytes()[:60])
    shutil.copy(sound[0].parent / "kb" / "facts.db", tmp_path / "store")
    changed(sound[0], tmp_path / "unsealed", "PRAGMA application_id=0")
    (tmp_path / "unfinished").write_bytes(sound[0].read_bytes()[:-58])
    with closing(sqlite3.connect(tmp_path / "foreign")) as connection:
        connection.execute("CREATE TABLE batches (version)")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    close_up(tmp_path / "foreign")
    for name in ("text", "short", "store", "unsealed", "unfinished", "foreign", "missing", "."):
        with pytest.raises(KnowledgeError, match=name if name != "." else "directory"):
            restore(tmp_path / name, tmp_path / "new")
        assert not (tmp_path / "new" / "facts.db").exists()
    with pytest.raises(StoreUnavailable, match="no store"):
        back_up(tmp_path, tmp_path / "backup")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET text = 'other' WHERE version = 5",
        "DELETE FROM entries WHERE version = 13",
        "DELETE FROM batches WHERE version = 13",
        "UPDATE batches SET created_at = 0 WHERE version = 2",
        "UPDATE backup SET facts = 4",
        "UPDATE backup SET version = 12",
        "DELETE FROM backup",
        "CREATE TABLE more (a)",
        "PRAGMA user_version=99",
    ],
)
def test_a_changed_backup_is_refused(sound: Any, tmp_path: Path, statement: str) -> None:
    changed(sound[0], tmp_path / "changed", statement)
    with pytest.raises(StoreCorrupt):
        restore(tmp_path / "changed", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["facts.db.lock"]


def test_a_flipped_byte_and_a_missing_one_are_refused(sound: Any, tmp_path: Path) -> None:
    data, source = sound[0].read_bytes(), random.Random(3)
    offsets = [source.randrange(len(data)) for _ in range(20)]
    flipped = [data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :] for offset in offsets]
    for damaged in (*flipped, data[:-1], data[1:], data + b"\n", data[: len(data) // 2], b""):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match="damaged: is no backup"):
            restore(tmp_path / "damaged", tmp_path / "new")


def _killed(work: Callable[..., object], arguments: tuple[Any, ...], seconds: float) -> bool:
    """Whether it was killed before its end."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0


def _restore(file: Path, target: Path) -> None:
    restore(file, target, overwrite=True)


@pytest.mark.timeout(300 + 5 * DEATHS)
@pytest.mark.parametrize("deaths", [2, pytest.param(DEATHS, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("editors")  # who start the process that all are forked from
def test_kill_9_leaves_nothing_that_looks_whole_and_is_not(sound: Any, tmp_path: Path, deaths: int) -> None:
    draw, killed = random.Random(SEED), 0
    before = fill(tmp_path / "old", 40)
    started = time.monotonic()
    assert not _killed(_restore, (sound[0], tmp_path / "first"), 60)
    usual = time.monotonic() - started
    for death in range(deaths):
        target, file = tmp_path / f"kb{death}", tmp_path / f"backup{death}"
        fresh = draw.random() < 0.5
        if not fresh:
            shutil.copytree(tmp_path / "old", target)
        killed += _killed(_restore, (sound[0], target), draw.uniform(0, usual))
        try:
            found = held(target)
        except StoreCorrupt:
            restore(sound[0], target, overwrite=True)
            found = held(target)
        # Killed before anything was done: what was there, or nothing.
        assert found in (sound[1], before) if not fresh else found == sound[1] or found[0] == 0
        killed += _killed(back_up, (tmp_path / "old", file), draw.uniform(0, usual))
        if file.exists():
            restore(file, tmp_path / f"copy{death}")
            assert held(tmp_path / f"copy{death}") == before
    assert killed or deaths < 10


def test_between_sqlite_and_postgresql(sound: Any, tmp_path: Path, url: str) -> None:
    found = restore(sound[0], url)
    assert held(url) == sound[1]
    with pytest.raises(NotOverwritten):
        restore(sound[0], url)
    with Store.open(url, HashEncoder()) as store:
        assert store.apply([Upsert("a", "default", "more")]).version == 14
        assert store.compact(5e9) == 12
        assert back_up(url, tmp_path / "backup").version == found.version + 1
        expected = content(store)
    restore(tmp_path / "backup", tmp_path / "kb")
    assert held(tmp_path / "kb") == expected
    restore(sound[0], url, overwrite=True)
    assert held(url) == sound[1]
    assert verify(url).version == 13


def test_a_restore_that_fails_leaves_the_database_as_it_was(
    sound: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kb.log.postgres import PostgresLog

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    expected = fill(url, 2)
    with monkeypatch.context() as patch:
        patch.setattr(PostgresLog, "set_head", fail)
        with pytest.raises(KeyboardInterrupt):
            restore(sound[0], url, overwrite=True)
    assert held(url) == expected
