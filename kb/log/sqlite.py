"""What the facts log asks of SQLite and of no other database."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, event

from kb.errors import StoreCorrupt, StoreUnavailable, WriteFailed
from kb.log import schema
from kb.log.damage import damage

_PRAGMAS = (
    "synchronous=FULL",
    "busy_timeout=5000",
    "cell_size_check=ON",
    "trusted_schema=OFF",
    # What history let go of is overwritten.
    "secure_delete=ON",
)


def configure(engine: Engine) -> None:
    """Of every connection that the engine makes from now on."""

    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin where SQLAlchemy says so, below
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def check(connection: Connection, name: str, seconds: float) -> int:
    """The database's own structure, for so long at most; its format, 0 for one without tables. Raises StoreCorrupt,
    StoreUnavailable."""
    driver = _driver(connection)
    if driver.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
        raise StoreUnavailable(f"{name}: SQLite cannot keep a write-ahead log here")
    # A database that cannot be written is refused now rather than at the first edit.
    # (SQLite lets a write transaction begin there all the same; only a write tells.)
    driver.execute("BEGIN IMMEDIATE")
    driver.execute("PRAGMA user_version=0")
    driver.execute("ROLLBACK")
    found = damage(driver, seconds)
    if found:
        raise StoreCorrupt(name, f"SQLite finds it damaged: {found}")
    version = found_format(driver)
    (tables,) = driver.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables or version:
        schema.require_format(version, name)
    return version


def found_format(driver: Any) -> int:
    """What a database says of itself."""
    return int(driver.execute("PRAGMA user_version").fetchone()[0])


def cut_write_ahead_log(connection: Connection, name: str) -> None:
    """To nothing, after all of it has been moved to the database file. Raises WriteFailed if somebody reads it."""
    cursor = _driver(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    busy = cursor.fetchone()[0]
    cursor.close()
    if busy:
        raise WriteFailed(f"{name}: busy after a failed write; try again")


def _driver(connection: Connection) -> Any:
    # PRAGMAs that must run outside a transaction, which SQLAlchemy would begin.
    return connection.connection.driver_connection
