"""A base: where the log begins once old history was let go."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Boolean, Column, Double, LargeBinary, Text


def upgrade(operations: Operations) -> None:
    """From format 1."""
    name = Text().with_variant(Text(collation="C"), "postgresql")
    operations.create_table(
        "bases",
        Column("one", Boolean, primary_key=True),
        Column("version", BigInteger, nullable=False),
        Column("chain", LargeBinary, nullable=False),
        Column("created_at", Double, nullable=False),
        Column("total", LargeBinary, nullable=False),
        Column("seal", LargeBinary, nullable=False),
    )
    operations.create_table(
        "base_facts",
        Column("namespace", name, primary_key=True),
        Column("id", name, primary_key=True),
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
    operations.create_table(
        "base_changes",
        Column("namespace", name, primary_key=True),
        Column("version", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
