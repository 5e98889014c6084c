"""What is kept of responses: for whom, how much, how long, and through a crash."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb.log.location import Location
from server.service.response_store import Bounds, Held, Kept, ResponseStore, ResponseStoreError

ROOM = Bounds(count=6, bytes=600, seconds=100.0)
OWNERS = ("a", "b", "c")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(directory: Path, bounds: Bounds = ROOM, clock: Clock | None = None) -> ResponseStore:
    return ResponseStore(Location.of(directory), bounds, clock or Clock())


def kept(name: str, owner: str = "a", size: int = 10) -> Kept:
    return Kept(name, owner, b"r" * (size - 2), b"[]")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[ResponseStore]:
    store = opened(tmp_path, clock=clock)
    yield store
    store.close()


def test_only_its_owner_finds_it(store: ResponseStore) -> None:
    assert store.add(kept("1"))
    assert (store.response("a", "1"), store.input("a", "1")) == (b"r" * 8, b"[]")
    assert store.response("b", "1") is store.input("b", "1") is None
    assert not store.delete("b", "1")
    assert store.delete("a", "1")
    assert not store.delete("a", "1")
    assert store.response("a", "1") is None
    assert store.held == Held()


def test_it_is_kept_for_so_long(store: ResponseStore, clock: Clock) -> None:
    store.add(kept("1"))
    clock.now += 99
    store.add(kept("2"))
    assert store.response("a", "1")
    clock.now += 1
    assert store.response("a", "1") is store.input("a", "1") is None
    assert not store.delete("a", "1")
    assert store.held.count == 2
    store.expire()
    assert store.held == Held(1, 10)
    assert store.response("a", "2")


def test_more_than_all_the_room_is_not_kept(store: ResponseStore) -> None:
    store.add(kept("1"))
    assert not store.add(kept("2", size=601))
    assert store.response("a", "1")


def test_a_flood_pushes_out_its_own(store: ResponseStore, clock: Clock) -> None:
    store.add(kept("modest", "b"))
    for place in range(20):
        clock.now += 1
        store.add(kept(f"{place}", "a", size=100))
    assert store.response("b", "modest")
    assert [place for place in range(20) if store.response("a", f"{place}")] == [15, 16, 17, 18, 19]


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(3, ROOM.bytes // len(OWNERS)), st.booleans()), max_size=25)
)
def test_the_books_are_right_and_the_modest_keep_theirs(steps: list[tuple[str, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        clock = Clock()
        store = opened(Path(directory), clock=clock)
        mine: dict[str, dict[str, int]] = {owner: {} for owner in OWNERS}
        for place, (owner, size, removes) in enumerate(steps):
            clock.now += 0.01
            if removes and mine[owner]:
                oldest = next(iter(mine[owner]))
                assert store.delete(owner, oldest)
                del mine[owner][oldest]
                continue
            assert store.add(kept(f"{place}", owner, size))
            mine[owner][f"{place}"] = size
            for other, names in mine.items():
                alive = {name: one for name, one in names.items() if store.response(other, name)}
                share = max(len(names) / ROOM.count, sum(names.values()) / ROOM.bytes)
                assert alive == names or share > 1 / len(OWNERS), "pushed out, though it kept no more than its share"
                assert list(alive) == list(names)[len(names) - len(alive) :], "not the oldest first"
                mine[other] = alive
            assert f"{place}" in mine[owner]
            held = [size for names in mine.values() for size in names.values()]
            assert store.held == Held(len(held), sum(held))
            assert store.held.count <= ROOM.count
            assert store.held.bytes <= ROOM.bytes
        before = store.held
        store.close()
        again = opened(Path(directory), clock=clock)
        assert again.held == before
        again.close()


def test_smaller_bounds_hold_from_the_start(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for place in range(6):
        store.add(kept(f"{place}"))
    store.close()
    store = opened(tmp_path, Bounds(count=2, bytes=600, seconds=100.0))
    assert store.held.count == 2
    store.close()
    store = opened(tmp_path, Bounds(count=2, bytes=15, seconds=100.0))
    assert store.held == Held(1, 10)
    store.close()


def test_a_failed_write_leaves_the_books_alone(store: ResponseStore) -> None:
    for place in range(6):
        store.add(kept(f"{place}"))
    before = store.held
    with pytest.raises(ResponseStoreError):
        store.add(kept("5"))  # after room was made
    assert store.held == before
    assert store.response("a", "0")


def test_what_is_deleted_is_not_in_the_file(store: ResponseStore, tmp_path: Path) -> None:
    store.add(Kept("1", "a", b"a secret plan", b"[]"))
    assert [file for file in tmp_path.iterdir() if b"secret plan" in file.read_bytes()]
    store.delete("a", "1")
    assert not [file for file in tmp_path.iterdir() if b"secret plan" in file.read_bytes()]


def test_nobody_else_may_read_it(store: ResponseStore, tmp_path: Path) -> None:
    store.add(kept("1"))
    files = list(tmp_path.glob("responses.db*"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_any_directory_will_do(tmp_path: Path) -> None:
    store = opened(tmp_path / "50 %2f? #1")
    store.add(kept("1"))
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["50 %2f? #1"]
    assert (tmp_path / "50 %2f? #1" / "responses.db").is_file()


def test_it_survives_a_crash(tmp_path: Path) -> None:
    """Killed in the midst of writing: all that was acknowledged is there."""
    program = f"""
        from tests.server.test_response_store import Bounds, Path, kept, opened
        store = opened(Path({str(tmp_path)!r}), Bounds(10**6, 2**30, 100.0))
        for place in range(10**6):
            store.add(kept(f"{{place}}"))
            print(place, flush=True)
    """
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().splitlines()]
    child.wait()
    child.stdout.close()
    store = opened(tmp_path, Bounds(10**6, 2**30, 100.0))
    assert store.held.count in (len(told), len(told) + 1)
    assert all(store.response("a", f"{place}") for place in told)
    store.close()


def test_what_it_is_not_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "responses.db"
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(ResponseStoreError, match=r"responses\.db"):
        opened(tmp_path)
    file.unlink()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()
    with pytest.raises(ResponseStoreError, match="format 99"):
        opened(tmp_path)
