"""A log of an earlier format is brought to this one's at a start, whole or not at all; a later one is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from kb.backup.making import back_up
from kb.facts import StoreCorrupt, Upsert
from kb.log import migrations, schema
from kb.log.location import Location
from kb.store import Store
from kb.verification import verify
from tests.kb.hashing import HashEncoder

FORMAT_1 = """
CREATE TABLE batches (
	version INTEGER NOT NULL,
	created_at DOUBLE NOT NULL,
	kind TEXT NOT NULL,
	chain BLOB NOT NULL,
	PRIMARY KEY (version)
);
CREATE TABLE entries (
	version BIGINT NOT NULL,
	seq INTEGER NOT NULL,
	op TEXT NOT NULL,
	namespace TEXT NOT NULL,
	id TEXT NOT NULL,
	text TEXT,
	metadata TEXT,
	expires_at DOUBLE,
	PRIMARY KEY (version, seq)
) WITHOUT ROWID;
CREATE TABLE embeddings (
	encoder TEXT NOT NULL,
	text_hash BLOB NOT NULL,
	vector BLOB NOT NULL,
	checksum BLOB NOT NULL,
	PRIMARY KEY (encoder, text_hash)
);
CREATE INDEX entries_by_fact ON entries (namespace, id, version);
INSERT INTO batches VALUES (1, 1700000000.5, 'edit', X'{chain}');
INSERT INTO entries VALUES (1, 0, 'upsert', 'default', 'a', 'an old fact', '{{"n":1}}', NULL);
PRAGMA user_version=1;
PRAGMA journal_mode=WAL;
"""
CHAIN = "7631b82707bcd65d206247b501ccb0b13ba5d2d61ff9d8ab05233be419b71a7e"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store as the first format left it, made by its own SQL; of one fact."""
    from kb.log.marker import Head, HeadMarker

    with closing(sqlite3.connect(tmp_path / "facts.db")) as connection:
        connection.executescript(FORMAT_1.format(chain=CHAIN))
    marker = HeadMarker(tmp_path / "facts.db.head")
    marker.restore(Head(1, bytes.fromhex(CHAIN)))
    marker.close()
    return tmp_path


def said(directory: Path) -> tuple[int, list[str]]:
    with Store.open(directory, HashEncoder()) as store:
        return store.snapshot.version, [fact.text for fact in store.snapshot.by_key.values()]


def found_format(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "facts.db")) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_an_old_store_is_brought_up(old: Path) -> None:
    assert said(old) == (1, ["an old fact"])
    assert found_format(old) == schema.FORMAT
    with Store.open(old, HashEncoder()) as store:
        for number in range(3):
            store.apply([Upsert("a", "default", f"new {number}")])
        assert store.compact(5e9) == 2
    assert verify(old).version == 4


def test_a_failure_leaves_the_old_format(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def failing() -> Iterator[None]:
        with monkeypatch.context() as patch:
            upgrade = migrations.upgrade

            def half(*args: int) -> None:
                upgrade(*args)  # type: ignore[arg-type]
                raise KeyboardInterrupt

            patch.setattr(migrations, "upgrade", half)
            yield

    with failing(), pytest.raises(KeyboardInterrupt):
        Store.open(old, HashEncoder())
    assert found_format(old) == 1
    with closing(sqlite3.connect(old / "facts.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'base%'").fetchone() == (0,)
    assert said(old) == (1, ["an old fact"])


def test_an_old_store_is_backed_up_as_it_is(old: Path, tmp_path: Path) -> None:
    assert back_up(old, tmp_path / "backup").facts == 1
    assert found_format(old) == 1


@pytest.mark.parametrize(("number", "match"), [(schema.FORMAT + 1, "newer program"), (-1, "format -1")])
def test_other_formats_are_refused_by_name(old: Path, number: int, match: str) -> None:
    with closing(sqlite3.connect(old / "facts.db")) as connection:
        connection.execute(f"PRAGMA user_version={number}")
    with pytest.raises(StoreCorrupt, match=match):
        Store.open(old, HashEncoder())


def test_alembic_is_imported_only_for_an_old_format(tmp_path: Path) -> None:
    program = (
        "import sys; from kb.store import Store; from tests.kb.hashing import HashEncoder; "
        f"Store.open({str(tmp_path)!r}, HashEncoder()).close(); print('alembic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_an_old_log_in_postgresql_is_brought_up(url: str) -> None:
    with Store.open(url, HashEncoder()) as store:
        store.apply([Upsert("a", "default", "an old fact")])
    engine = create_engine(Location.of(url).url)
    with engine.begin() as connection:  # as the first format left it
        connection.execute(text("DROP TABLE bases, base_facts, base_changes"))
        connection.execute(text("UPDATE heads SET format = 1"))
    with Store.open(url, HashEncoder()) as store:
        assert [fact.text for fact in store.snapshot.by_key.values()] == ["an old fact"]
        for number in range(3):
            store.apply([Upsert("a", "default", f"new {number}")])
        assert store.compact(5e9) == 2
    with engine.begin() as connection:
        assert connection.execute(text("SELECT format FROM heads")).scalar_one() == schema.FORMAT
        connection.execute(text("UPDATE heads SET format = 99"))
    with pytest.raises(StoreCorrupt, match="newer program"):
        Store.open(url, HashEncoder())
    engine.dispose()
