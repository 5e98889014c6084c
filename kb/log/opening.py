"""Which kind of log a location has."""

from __future__ import annotations

from kb.log.fact_log import CHECK_SECONDS, FactLog
from kb.log.location import Location


def open_log(location: Location, *, check_seconds: float = CHECK_SECONDS) -> FactLog:
    """The log there, made when missing. Raises StoreCorrupt, StoreUnavailable."""
    if location.database is not None:
        return FactLog(location, check_seconds=check_seconds)
    from kb.log.postgres import PostgresLog

    return PostgresLog(location, check_seconds=check_seconds)
