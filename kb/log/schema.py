"""Tables of the facts log."""

from __future__ import annotations

from functools import cache

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
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
    text,
)

from kb.errors import StoreCorrupt

# Kept in SQLite's user_version and in PostgreSQL's heads, so that a later format is refused rather than misread. An
# earlier one is brought to this one by `kb/log/migrations`.
FORMAT = 2

metadata = MetaData()

_NAME = Text().with_variant(Text(collation="C"), "postgresql")
"""Compared as SQLite does, whatever language the database is set to."""

batches = Table(
    "batches",
    metadata,
    # Plain Integer would be 32 bits on PostgreSQL; SQLite wants exactly INTEGER for its row id.
    Column("version", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("created_at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("chain", LargeBinary, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("op", Text, nullable=False),
    Column("namespace", _NAME, nullable=False),
    Column("id", _NAME, nullable=False),
    Column("text", Text),
    Column("metadata", Text),
    Column("expires_at", Double),
    # Rows lie in the order in which they are replayed.
    sqlite_with_rowid=False,
)
Index("entries_by_fact", entries.c.namespace, entries.c.id, entries.c.version)

embeddings = Table(
    "embeddings",
    metadata,
    Column("encoder", Text, primary_key=True),
    Column("text_hash", LargeBinary, primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
)

bases = Table(
    "bases",
    metadata,
    # One row once history was let go, none before: where the log begins now (`kb/log/base.py`).
    Column("one", Boolean, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("total", LargeBinary, nullable=False),
    Column("seal", LargeBinary, nullable=False),
)

base_facts = Table(
    "base_facts",
    metadata,
    # The facts at the base, each with the batch that wrote it.
    Column("namespace", _NAME, primary_key=True),
    Column("id", _NAME, primary_key=True),
    Column("text", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("expires_at", Double),
    Column("version", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("written_at", Double, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

base_changes = Table(
    "base_changes",
    metadata,
    # The newest version up to the base that touched each namespace.
    Column("namespace", _NAME, primary_key=True),
    Column("version", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

shared = MetaData()
"""What a log of several writers needs besides: PostgreSQL's only."""

heads = Table(
    "heads",
    shared,
    # One row. Whoever appends has locked it, so the log has one order.
    Column("one", Boolean, CheckConstraint("one"), primary_key=True),
    Column("format", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("chain", LargeBinary, nullable=False),
)

batch_ids = Table(
    "batch_ids",
    shared,
    # By which a writer that lost its connection in the midst of a commit knows its batch again.
    Column("batch_id", LargeBinary, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

_SHAPE = (
    "SELECT type, name, tbl_name FROM sqlite_master",
    "SELECT m.name, c.* FROM sqlite_master m, pragma_table_xinfo(m.name) c WHERE m.type = 'table'",
    "SELECT m.name, c.* FROM sqlite_master m, pragma_index_xinfo(m.name) c WHERE m.type = 'index'",
)


def require_format(found: int, name: str) -> None:
    """Raises StoreCorrupt unless it is one that this program reads, or brings to one."""
    if found > FORMAT:
        raise StoreCorrupt(name, f"is of a newer program: it has format {found}, this one reads formats 1 to {FORMAT}")
    if found < 1:
        raise StoreCorrupt(name, f"has format {found}; this program reads formats 1 to {FORMAT}")


def shape(connection: Connection) -> tuple[tuple[str, ...], ...]:
    """The tables and indexes of a SQLite database with their columns."""
    with connection.begin():
        return tuple(tuple(sorted(map(repr, connection.execute(text(query))))) for query in _SHAPE)


@cache
def expected_shape() -> tuple[tuple[str, ...], ...]:
    """What `shape` finds in a sound store."""
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            with connection.begin():
                metadata.create_all(connection)
            return shape(connection)
    finally:
        engine.dispose()
