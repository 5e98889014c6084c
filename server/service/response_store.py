"""Answers of /v1/responses on disk, bounded in number, bytes and age. SQLAlchemy Core; SQLite as the facts log has it.

A response belongs to the key that made it; nobody else's question finds it. Where room is short it is made at the cost
of whoever holds most, the oldest first: however many one key keeps, it pushes out nobody's who keeps less.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from kb.log.location import Location
from kb.log.sqlite import configure

FORMAT = 1
"""Kept in SQLite's user_version, so that a later format is refused rather than misread."""

metadata = MetaData()
responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("size", Integer, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
)
Index("responses_by_owner", responses.c.owner, responses.c.created_at)
Index("responses_by_age", responses.c.created_at)


class ResponseStoreError(Exception):
    """The store cannot be read or written; the message quotes nothing that is in it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of all responses together."""

    count: int
    bytes: int
    seconds: float
    """How long one is kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One response."""

    id: str
    owner: str
    """The name of the key that made it."""
    response: bytes
    """As it is answered: JSON."""
    input: bytes
    """A JSON list: the items of the whole conversation before its output."""

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.response) + len(self.input)


@dataclass(frozen=True, slots=True)
class Held:
    """How much there is, of one key or of all."""

    count: int = 0
    bytes: int = 0

    def plus(self, count: int, size: int) -> Held:
        """With so many more, or fewer."""
        return Held(self.count + count, self.bytes + size)


class ResponseStore:
    """Thread-safe; writes take turns. Everything but `held` blocks, and raises ResponseStoreError."""

    def __init__(self, location: Location, bounds: Bounds, now: Callable[[], float] = time.time) -> None:
        """Opens or makes it: `responses.db` beside a facts log in SQLite, else a table in the log's own database."""
        self._bounds = bounds
        self._now = now
        self._writing = threading.Lock()
        file = location.database.with_name("responses.db") if location.database else None
        self._file = file is not None
        self._name = str(file or location.url.render_as_string(hide_password=True))
        try:
            self._engine = create_engine(_url(location, file), hide_parameters=True)
        except (ImportError, NoSuchModuleError) as error:
            raise ResponseStoreError(f"{self._name}: {error}") from error
        try:
            with self._explained():
                if file is not None:
                    _private(file)
                    configure(self._engine)
                    event.listen(self._engine, "connect", _erase_deleted)
                    self._prepare()
                metadata.create_all(self._engine)
                with self._engine.begin() as connection:
                    self._held = _count(connection)
                    self._expire(connection)
                    self._make_room(connection, None)
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def held(self) -> Held:
        """Of all keys together."""
        shares = list(self._held.values())
        return Held(sum(one.count for one in shares), sum(one.bytes for one in shares))

    def add(self, kept: Kept) -> bool:
        """Durable when it returns. False: it is larger than all that may be kept together."""
        if kept.size > self._bounds.bytes:
            return False
        row = {
            "id": kept.id,
            "owner": kept.owner,
            "created_at": self._now(),
            "size": kept.size,
            "response": kept.response,
            "input": kept.input,
        }
        with self._changing() as connection:
            self._expire(connection)
            self._make_room(connection, kept)
            connection.execute(insert(responses).values(row))
            self._took(kept.owner, 1, kept.size)
        return True

    def response(self, owner: str, response_id: str) -> bytes | None:
        """As it was answered; None: the key has no such response (any more)."""
        return self._column("response", owner, response_id)

    def input(self, owner: str, response_id: str) -> bytes | None:
        """The items before its output; None likewise."""
        return self._column("input", owner, response_id)

    def delete(self, owner: str, response_id: str) -> bool:
        """Durable when it returns. False: the key has no such response."""
        r = responses.c
        alive = (r.id == response_id, r.owner == owner, r.created_at > self._oldest())
        with self._changing() as connection:
            sizes = connection.execute(delete(responses).where(*alive).returning(r.size)).scalars().all()
            for size in sizes:
                self._took(owner, -1, -size)
        self._erase(bool(sizes))
        return bool(sizes)

    def expire(self) -> None:
        """Delete what is too old; it is not found any more as it is."""
        before = self.held
        with self._changing() as connection:
            self._expire(connection)
        self._erase(self.held != before)

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        self._engine.dispose()

    def _column(self, name: str, owner: str, response_id: str) -> bytes | None:
        r = responses.c
        found = select(r[name]).where(r.id == response_id, r.owner == owner, r.created_at > self._oldest())
        with self._explained(), self._engine.connect() as connection:
            value: bytes | None = connection.execute(found).scalar_one_or_none()
            return value

    def _oldest(self) -> float:
        return self._now() - self._bounds.seconds

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            driver: Any = (
                connection.connection.driver_connection
            )  # outside of transactions, which SQLAlchemy would begin
            if driver.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
                raise ResponseStoreError(f"{self._name}: SQLite cannot keep a write-ahead log here")
            (version,) = driver.execute("PRAGMA user_version").fetchone()
            (tables,) = driver.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version == 0 and tables == 0:
                driver.execute(f"PRAGMA user_version={FORMAT}")
            elif version != FORMAT:
                raise ResponseStoreError(f"{self._name}: has format {version}; this program reads format {FORMAT}")

    def _erase(self, deleted: bool) -> None:
        """What was deleted goes from the file as well, where the write-ahead log has only noted that it is gone."""
        if deleted and self._file:
            with self._writing, self._explained(), self._engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _expire(self, connection: Connection) -> None:
        r = responses.c
        gone = connection.execute(
            delete(responses).where(r.created_at <= self._oldest()).returning(r.owner, r.size)
        ).all()
        for owner, size in gone:
            self._took(owner, -1, -size)

    def _make_room(self, connection: Connection, new: Kept | None) -> None:
        """One after the other: whoever holds most may be somebody else after each."""
        r = responses.c
        while self._over(new):
            owner = max(self._held, key=lambda one: self._share(one, new))
            oldest = select(r.id, r.size).where(r.owner == owner).order_by(r.created_at, r.id).limit(1)
            gone = connection.execute(oldest).one()
            connection.execute(delete(responses).where(r.id == gone.id))
            self._took(owner, -1, -gone.size)

    def _over(self, new: Kept | None) -> bool:
        held = self.held if new is None else self.held.plus(1, new.size)
        return held.count > self._bounds.count or held.bytes > self._bounds.bytes

    def _share(self, owner: str, new: Kept | None) -> float:
        """Of all that may be kept, the new one included."""
        held = self._held[owner]
        if new is not None and new.owner == owner:
            held = held.plus(1, new.size)
        return max(held.count / self._bounds.count, held.bytes / self._bounds.bytes)

    def _took(self, owner: str, count: int, size: int) -> None:
        """The books are never changed in place: others read them meanwhile."""
        held = self._held.get(owner, Held()).plus(count, size)
        others = {name: one for name, one in self._held.items() if name != owner}
        self._held = {**others, owner: held} if held.count else others

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """One transaction; the books are as before if it fails."""
        with self._writing:
            before = self._held
            try:
                with self._explained(), self._engine.begin() as connection:
                    yield connection
            except BaseException:
                self._held = before
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            said = str(getattr(error, "orig", None) or error).partition("\n")[0]
            raise ResponseStoreError(f"{self._name}: {said}") from error


def _url(location: Location, file: Path | None) -> URL:
    return location.url if file is None else URL.create("sqlite+pysqlite", database=str(file))


def _private(file: Path) -> None:
    """What people asked is for the server's own eyes. SQLite gives its other files the same rights."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _erase_deleted(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA secure_delete=ON")


def _count(connection: Connection) -> dict[str, Held]:
    r = responses.c
    rows = connection.execute(select(r.owner, func.count(), func.sum(r.size)).group_by(r.owner))
    return {owner: Held(count, int(size)) for owner, count, size in rows}
