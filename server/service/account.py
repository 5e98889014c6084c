"""What one request did, in numbers and times: for the access log and for traces.

No text of a request gets in, no fact and no fact's id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

PhaseName = Literal["queue", "retrieval", "prefill", "decode", "embed", "encode", "commit"]
MAX_PHASES = 256
"""Of one request; an import may have any number."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One thing that took time, on time.monotonic()'s clock."""

    name: PhaseName
    began: float
    ended: float


@dataclass(slots=True)
class Account:
    """Filled by whoever does the work, read at the request's end. Belongs to one event loop."""

    knowledge_version: int | None = None
    """What was answered from, or what an edit made."""
    facts_mounted: int | None = None
    first_token_at: float | None = None
    """On time.monotonic()'s clock."""
    phases: list[Phase] = field(default_factory=list)
    dropped: int = 0
    """Phases beyond the bound."""

    def spent(self, name: PhaseName, began: float, ended: float | None = None) -> None:
        """Until `ended`, or now."""
        if len(self.phases) >= MAX_PHASES:
            self.dropped += 1
            return
        self.phases.append(Phase(name, began, time.monotonic() if ended is None else ended))

    @contextmanager
    def during(self, name: PhaseName) -> Iterator[None]:
        """The block is a phase, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent(name, began)
