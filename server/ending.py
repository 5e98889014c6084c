"""How a server that is still loading ends. Light: wanted before what takes long to import."""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def end_on_sigterm() -> None:
    """From now on, until something is served and can be drained.

    The first process of a container needs to be told: the system ends it by no signal that it does not catch.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)  # whoever started the process sees what ended it
    os._exit(128 + number)  # it was the first one, and lives
