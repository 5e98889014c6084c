"""Where a store lives, and the lock that keeps it to one process."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from kb.errors import StoreLocked, StoreUnavailable


@dataclass(frozen=True, slots=True)
class Location:
    """A database URL and, when it is a SQLite file, that file."""

    url: URL
    database: Path | None

    @classmethod
    def of(cls, path_or_url: Path | str) -> Location:
        """A directory (made when missing) holding `facts.db`, or a database URL. Raises StoreUnavailable."""
        if isinstance(path_or_url, str) and "://" in path_or_url:
            return cls._of_url(path_or_url)
        database = Path(path_or_url).absolute() / "facts.db"
        return cls(URL.create("sqlite+pysqlite", database=str(database)), database)

    @classmethod
    def _of_url(cls, text: str) -> Location:
        try:
            url = make_url(text)
        except ArgumentError as error:
            raise StoreUnavailable(f"not a database URL: {error}") from error
        if url.get_backend_name() in ("postgresql", "postgres"):
            return cls(_of_postgresql(url), None)
        if url.get_backend_name() != "sqlite":
            raise StoreUnavailable(f"the facts log is kept by SQLite or PostgreSQL, not by {url.get_backend_name()}")
        if not url.database or url.database == ":memory:" or url.query:
            raise StoreUnavailable("a SQLite URL must name a file and nothing else: sqlite:////path/facts.db")
        database = Path(url.database).absolute()
        return cls(URL.create("sqlite+pysqlite", database=str(database)), database)

    def beside(self, suffix: str) -> Path:
        """The file beside a SQLite database whose name ends with `suffix`."""
        assert self.database is not None
        return self.database.with_name(self.database.name + suffix)


def _of_postgresql(url: URL) -> URL:
    """For the one driver that is supported: plain postgresql:// (and postgres://) means psycopg 3."""
    if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise StoreUnavailable(f"{url.drivername}: write postgresql://, its driver is psycopg")
    if not url.database:
        raise StoreUnavailable("a PostgreSQL URL must name a database: postgresql://user@host/database")
    return url.set(drivername="postgresql+psycopg")


class StoreLock:
    """Held from construction until `release`; the kernel drops it when the process dies."""

    def __init__(self, path: Path) -> None:
        """Raises StoreLocked when another store holds it, StoreUnavailable when the file cannot be made."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnavailable(f"cannot open the store: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StoreLocked(f"{path.parent}: another process has this store open") from error

    def release(self) -> None:
        """Lets another process open the store."""
        os.close(self._file)
