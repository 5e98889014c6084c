"""Threads for what blocks, apart by kind: a question never waits behind an edit, a small edit never behind a large one.

What may wait in a lane is bounded by the admission in front of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cpu.threads import compute_alone
from server.metrics import Metrics

T = TypeVar("T")


class Lane:
    """Some threads that compute with one core each."""

    def __init__(self, name: str, threads: int, metrics: Metrics) -> None:
        self._executor = ThreadPoolExecutor(threads, f"kalmagrove-{name}", compute_alone)
        self._dropped = metrics.jobs_dropped.labels(name)

    async def run(self, function: Callable[[], T]) -> T:
        """Run something that blocks. Not at all if the caller is cancelled before it begins."""
        job = self._executor.submit(function)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if job.cancel():
                self._dropped.inc()
            raise

    def close(self) -> None:
        """Wait for what is under way, then end the threads."""
        self._executor.shutdown()


class Lanes:
    """All of them."""

    def __init__(self, metrics: Metrics) -> None:
        self.questions = Lane("questions", 2, metrics)
        self.reads = Lane("reads", 2, metrics)
        """Lists, histories, exports, and whatever has much text to split."""
        self.texts = Lane("texts", 1, metrics)
        """Embedding many texts, or long ones: seconds each. One core of it is all that the engine is to miss."""
        self.grammars = Lane("grammars", 1, metrics)
        self.edits = Lane("edits", 1, metrics)
        self.bulk_edits = Lane("bulk-edits", 1, metrics)
        self.commits = Lane("commits", 1, metrics)
        self.responses = Lane("responses", 1, metrics)

    async def close(self) -> None:
        """The threads end; what is under way ends first."""
        knowledge = (self.questions, self.edits, self.bulk_edits, self.commits)
        for lane in (*knowledge, self.reads, self.texts, self.grammars, self.responses):
            await asyncio.to_thread(lane.close)
