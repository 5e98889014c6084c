"""SQLite's own check of a database file, for as long as a start may take."""

from __future__ import annotations

import logging
import sqlite3
import threading

INTERRUPT_SECONDS = 0.01
"""Between two attempts to stop it."""

_logger = logging.getLogger(__name__)


def damage(driver: sqlite3.Connection, seconds: float) -> str | None:
    """The first damage to the database's structure that is found in this time, if any."""
    over = threading.Event()
    alarm = threading.Thread(target=_interrupt, args=(driver, seconds, over), daemon=True)
    alarm.start()
    try:
        (found,) = driver.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        _logger.warning("the database was not checked to its end: kalmagrove kb verify does that")
        return None
    finally:
        over.set()
        alarm.join()
    return None if found == "ok" else str(found)


def _interrupt(driver: sqlite3.Connection, seconds: float, over: threading.Event) -> None:
    """Again and again, until it is over: what comes before the check has begun is lost."""
    pause = min(seconds, threading.TIMEOUT_MAX)
    while not over.wait(pause):
        driver.interrupt()
        pause = INTERRUPT_SECONDS
