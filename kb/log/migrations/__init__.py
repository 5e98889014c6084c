"""Bringing a log of an earlier format to this program's: one module for each step, `to_N.py`, never changed afterwards.

The steps are Alembic's operations. Its own table of versions is not used: the format stands where programs of every age
look for it, in SQLite's user_version or PostgreSQL's heads, and is written in the same transaction.
"""

from __future__ import annotations

import logging
from importlib import import_module

from sqlalchemy import Connection

_logger = logging.getLogger(__name__)


def upgrade(connection: Connection, found: int, wanted: int) -> None:
    """From format `found` to `wanted`, in the caller's transaction. Alembic is imported only here."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    for version in range(found + 1, wanted + 1):
        import_module(f"{__name__}.to_{version}").upgrade(operations)
    _logger.warning("the facts log was brought from format %d to %d: earlier programs refuse it now", found, wanted)
