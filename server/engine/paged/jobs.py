"""Computations that others hand to the engine's thread, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Job: TypeAlias = Future[T]


class JobQueue:
    """Any thread may put; one takes. A job whose future was cancelled meanwhile is dropped."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Job[Any]]] = SimpleQueue()
        self.dropped = 0

    @property
    def empty(self) -> bool:
        return self._waiting.empty()

    def put(self, function: Callable[[], T]) -> Job[T]:
        """Queue it; the future tells what became of it."""
        job: Job[T] = Future()
        self._waiting.put((function, job))
        return job

    def carry_out_one(self) -> bool:
        """Run the next job that somebody waits for. False if there is none."""
        while not self._waiting.empty():
            if carry_out(*self._waiting.get()):
                return True
            self.dropped += 1
        return False

    def fail_all(self, error: Exception) -> None:
        """Whoever waits gets the error: a cancelled future would look as if the waiting request were cancelled."""
        while not self._waiting.empty():
            job = self._waiting.get()[1]
            if job.set_running_or_notify_cancel():
                job.set_exception(error)


def carry_out(function: Callable[[], T], job: Job[T]) -> bool:
    """False if the job was cancelled before it began."""
    if not job.set_running_or_notify_cancel():
        return False
    try:
        job.set_result(function())
    except Exception as error:
        job.set_exception(error)
    return True
