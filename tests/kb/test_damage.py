"""Damaged files: the store refuses to open, or holds exactly what was acknowledged."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kb.facts import Delete, StoreCorrupt, StoreUnavailable, Upsert
from kb.store import Store
from kb.verification import accept_log

FILES = ["facts.db", "facts.db-wal", "facts.db.head"]


def state(store: Store) -> Any:
    facts = {
        fact.key: (fact.text, dict(fact.metadata), fact.expires_at, fact.version, fact.created_at)
        for fact in store.snapshot.by_key.values()
    }
    histories = {key: store.past.history(*key) for key in sorted(facts)}
    return store.snapshot.version, facts, histories, store.past.log_entries()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_encoder: Callable[[], Any]) -> tuple[Path, Any]:
    """A store as kill -9 leaves it, part of it in the database and part in the write-ahead log; and its state."""
    directory = tmp_path_factory.mktemp("sound")
    encoder = make_encoder()
    with Store.open(directory / "open", encoder) as store:
        for number in range(12):
            store.apply([Upsert(f"f{number % 5}", "default", f"text {number}", {"number": number}, 4e9 + number)])
    with Store.open(directory / "open", encoder) as store:
        store.apply([Delete("f1", "default"), Upsert("new", "other", "a longer text " * 40)])
        store.rollback(9)
        store.apply([Upsert("f2", "default", "the newest text")])
        shutil.copytree(directory / "open", directory / "killed")
        assert all((directory / "killed" / name).stat().st_size for name in FILES)
        return directory / "killed", state(store)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, make_encoder: Callable[[], Any]) -> tuple[Path, Any]:
    """A store as `close` leaves it, all of it in the database; and its state."""
    directory = tmp_path_factory.mktemp("closed")
    with Store.open(directory, make_encoder()) as store:
        for number in range(80):
            store.apply([Upsert(f"f{number % 30}", "default", f"text {number}", {"number": number})])
        expected = state(store)
    return directory, expected


def check(damaged: Path, expected: Any, encoder: Any) -> bool:
    """Opens a damaged copy; whether it was recovered rather than refused."""
    try:
        store = Store.open(damaged, encoder)
    except (StoreCorrupt, StoreUnavailable) as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "facts.db" in refusal
        return False
    with store:
        assert state(store) == expected
        vectors = encoder.embed([fact.text for fact in store.snapshot.by_key.values()])
        for fact, vector in zip(store.snapshot.by_key.values(), vectors, strict=True):
            best = store.snapshot.search(fact.namespace, vector, 1, 0.0, 0.0, text=fact.text)[0]
            assert best.fact.text == fact.text
            assert (best.score, best.lexical) == pytest.approx((1, 1))
        store.apply([Upsert("after", "default", "still takes edits")])
    with Store.open(damaged, encoder) as store:
        assert store.snapshot.version == expected[0] + 1
    return True


def damage_each(sound: tuple[Path, Any], tmp_path: Path, encoder: Any, name: str, damages: list[Any]) -> int:
    source, expected = sound
    original = (source / name).read_bytes()
    recovered = 0
    for number, damage in enumerate(damages):
        copy = tmp_path / str(number)
        shutil.copytree(source, copy)
        data = bytearray(original)
        damage(data)
        (copy / name).write_bytes(data)
        recovered += check(copy, expected, encoder)
        shutil.rmtree(copy)
    return recovered


def flip(offset: int, mask: int) -> Callable[[bytearray], None]:
    def damage(data: bytearray) -> None:
        data[offset] ^= mask

    return damage


def blank(start: int) -> Callable[[bytearray], None]:
    def damage(data: bytearray) -> None:
        data[start : start + 512] = bytes(512)

    return damage


def truncate(length: int) -> Callable[[bytearray], None]:
    def damage(data: bytearray) -> None:
        del data[length:]

    return damage


def offsets(size: int, count: int, seed: int) -> list[int]:
    """Some offsets all over a file, the first hundred bytes (headers) more densely."""
    source = random.Random(seed)
    return [source.randrange(min(size, 100)) for _ in range(count // 4)] + [
        source.randrange(size) for _ in range(count - count // 4)
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_or_harmless(sound: Any, tmp_path: Path, encoder: Any, name: str) -> None:
    source = random.Random(1)
    size = (sound[0] / name).stat().st_size
    damages = [flip(offset, source.randrange(1, 256)) for offset in offsets(size, 24, 2)]
    damage_each(sound, tmp_path, encoder, name, damages)


def test_a_damaged_sector_is_refused_or_harmless(closed: Any, tmp_path: Path, encoder: Any) -> None:
    size = (closed[0] / "facts.db").stat().st_size
    sectors = [offset // 512 * 512 for offset in offsets(size, 16, 5)]
    recovered = damage_each(closed, tmp_path, encoder, "facts.db", [blank(sector) for sector in sectors])
    assert recovered < len(sectors)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_or_harmless(sound: Any, tmp_path: Path, encoder: Any, name: str) -> None:
    size = (sound[0] / name).stat().st_size
    lengths = [0, size - 1, size // 2, *(length for length in range(0, size, 4096))][:12]
    damage_each(sound, tmp_path, encoder, name, [truncate(length) for length in [*lengths, *offsets(size, 8, 3)]])


def test_the_write_ahead_log_never_loses_its_end_unnoticed(sound: Any, tmp_path: Path, encoder: Any) -> None:
    size = (sound[0] / "facts.db-wal").stat().st_size
    damages = [truncate(length) for length in range(0, size - 4096, 4096)]
    assert damage_each(sound, tmp_path, encoder, "facts.db-wal", damages) == 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", FILES)
def test_every_byte_of_every_file(sound: Any, tmp_path: Path, encoder: Any, name: str) -> None:
    size = (sound[0] / name).stat().st_size
    source = random.Random(4)
    damage_each(sound, tmp_path, encoder, name, [flip(offset, source.randrange(1, 256)) for offset in range(size)])
    damage_each(sound, tmp_path, encoder, name, [truncate(length) for length in range(0, size, 64)])


def test_one_damaged_marker_slot_is_recovered_from(sound: Any, tmp_path: Path, encoder: Any) -> None:
    slots = [flip(20, 1), flip(4096 + 20, 1), truncate(4096), truncate(4096 + 79)]
    assert damage_each(sound, tmp_path, encoder, "facts.db.head", slots) == len(slots)


@pytest.mark.parametrize("damage", ["missing", "both slots", "empty"])
def test_without_its_marker_a_store_opens_only_when_told_to(
    sound: Any, tmp_path: Path, encoder: Any, damage: str
) -> None:
    source, expected = sound
    shutil.copytree(source, tmp_path / "kb")
    marker = tmp_path / "kb" / "facts.db.head"
    if damage == "missing":
        marker.unlink()
    else:
        marker.write_bytes(b"" if damage == "empty" else bytes(8192))
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=r"facts\.db\.head: .*accept-log"):
            Store.open(tmp_path / "kb", encoder)
    assert accept_log(tmp_path / "kb").version == expected[0]
    assert check(tmp_path / "kb", expected, encoder)


@pytest.mark.parametrize("lost", [["facts.db"], ["facts.db", "facts.db-wal"], ["facts.db-wal"]])
def test_lost_files_are_missed(sound: Any, tmp_path: Path, encoder: Any, lost: list[str]) -> None:
    shutil.copytree(sound[0], tmp_path / "kb")
    for name in lost:
        (tmp_path / "kb" / name).unlink()
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=r"facts\.db"):
            Store.open(tmp_path / "kb", encoder)


def test_an_old_copy_of_either_file_is_noticed(tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path / "kb", encoder) as store:
        store.apply([Upsert("a", "default", "one")])
    shutil.copytree(tmp_path / "kb", tmp_path / "old")
    with Store.open(tmp_path / "kb", encoder) as store:
        for number in range(3):
            store.apply([Upsert("a", "default", f"two {number}")])
    for name, message in [("facts.db", "lost its end"), ("facts.db.head", "older copy")]:
        shutil.copytree(tmp_path / "kb", tmp_path / name)
        shutil.copy(tmp_path / "old" / name, tmp_path / name / name)
        with pytest.raises(StoreCorrupt, match=message):
            Store.open(tmp_path / name, encoder)


def test_the_database_of_another_store_is_noticed(tmp_path: Path, encoder: Any) -> None:
    for name in ("one", "two"):
        with Store.open(tmp_path / name, encoder) as store:
            store.apply([Upsert("a", "default", name)])
    shutil.copy(tmp_path / "one" / "facts.db", tmp_path / "two" / "facts.db")
    with pytest.raises(StoreCorrupt, match="not what was acknowledged"):
        Store.open(tmp_path / "two", encoder)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET text = 'text 78' WHERE version = 80",
        "UPDATE entries SET id = 'f0' WHERE version = 3",
        "UPDATE entries SET namespace = 'other' WHERE version = 3",
        "UPDATE entries SET metadata = '{}' WHERE version = 3",
        "UPDATE entries SET expires_at = 1.0 WHERE version = 3",
        "UPDATE entries SET op = 'delete' WHERE version = 3",
        "UPDATE entries SET version = 4, seq = 1 WHERE version = 3",
        "UPDATE entries SET text = x'ff' WHERE version = 3",
        "DELETE FROM entries WHERE version = 80",
        "INSERT INTO entries SELECT 81, seq, op, namespace, id, text, metadata, expires_at FROM entries LIMIT 1",
        "UPDATE batches SET kind = 'rollback' WHERE version = 3",
        "UPDATE batches SET created_at = 0 WHERE version = 80",
        "UPDATE batches SET chain = zeroblob(32) WHERE version = 3",
        "UPDATE batches SET version = 81 WHERE version = 80",
        "DELETE FROM batches WHERE version = 3",
        "DELETE FROM batches WHERE version = 80",
        "DROP TABLE entries",
        "DROP TABLE batches",
        "PRAGMA user_version = 3",
        "ALTER TABLE embeddings RENAME COLUMN checksum TO checksun",
        "ALTER TABLE embeddings DROP COLUMN checksum",
        "CREATE TABLE more (stuff)",
    ],
)
def test_a_changed_log_is_refused(closed: Any, tmp_path: Path, encoder: Any, statement: str) -> None:
    shutil.copytree(closed[0], tmp_path / "kb")
    with closing(sqlite3.connect(tmp_path / "kb" / "facts.db")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StoreCorrupt, match=r"facts\.db: "):
        Store.open(tmp_path / "kb", encoder)


def test_a_damaged_vector_is_computed_again(tmp_path: Path, encoder: Any) -> None:
    with Store.open(tmp_path, encoder) as store:
        store.apply([Upsert("a", "default", "one"), Upsert("b", "default", "two")])
    database = tmp_path / "facts.db"
    vector = encoder.embed(["one"])[0].tobytes()
    data = database.read_bytes()
    assert data.count(vector) == 1
    database.write_bytes(data.replace(vector, vector[:-1] + bytes([vector[-1] ^ 1])))
    encoder.embedded.clear()
    for computed in (["one"], []):
        with Store.open(tmp_path, encoder) as store:
            assert encoder.embedded == computed
            hit = store.snapshot.search("default", encoder.embed(["one"])[0], 1, 0.0, 0.0)[0]
            assert (hit.fact.id, hit.score) == ("a", pytest.approx(1))
        encoder.embedded.clear()


def test_another_encoder_computes_its_own_vectors(tmp_path: Path, make_encoder: Callable[[], Any]) -> None:
    first, second = make_encoder(), make_encoder()
    second.fingerprint = "another"
    with Store.open(tmp_path, first) as store:
        store.apply([Upsert("a", "default", "one")])
    Store.open(tmp_path, second).close()
    Store.open(tmp_path, first).close()
    assert (first.embedded, second.embedded) == (["one"], ["one"])
