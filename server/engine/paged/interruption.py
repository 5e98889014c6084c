"""What may cut into a running step, so that an edit or a question need not wait for the step's end."""

from __future__ import annotations

import time
from collections.abc import Callable

BUDGET_SECONDS = 0.03
"""Once so much time went into interruptions, a step is left in peace to its end. That is about one edit, and another
may come before the step: streams move on by a token per two edits, however fast edits come."""


class Interruption:
    """Called between the layers of one step: short computations, and small edits' facts, come in between."""

    def __init__(
        self, take_edits: Callable[[], None], take_job: Callable[[], bool], encode_now: Callable[[], bool]
    ) -> None:
        self._take_edits = take_edits
        self._take_job = take_job
        self._encode_now = encode_now
        self._left = BUDGET_SECONDS

    def __call__(self) -> None:
        if self._left <= 0:
            return
        started = time.monotonic()
        self._take_edits()
        worked = self._take_job()
        worked |= self._encode_now()
        if worked:
            self._left -= time.monotonic() - started
