"""The thread that owns model and cache: it obeys commands, and steps the worker while there is work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue

import torch

from cpu.threads import AllCores
from server.engine.paged.interruption import Interruption
from server.engine.paged.jobs import JobQueue
from server.engine.paged.outbox import Outbox
from server.engine.paged.worker import Worker
from server.engine.protocol import EngineUnavailable

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Steps that may fail in a row before the engine declares itself dead."""
BLOCKED_WAIT_SECONDS = 0.002
SHUT_DOWN = "the engine has shut down"
DIED = "the engine died"

Command = Callable[[], object]


class Owner:
    """Started by `start`; `send`, `order` and the attributes are for any thread."""

    def __init__(self, worker: Worker, outbox: Outbox, stall_seconds: float) -> None:
        self._worker = worker
        self._outbox = outbox
        self._stall_seconds = stall_seconds
        self._inbox: SimpleQueue[Command | None] = SimpleQueue()
        self._edits: SimpleQueue[Command] = SimpleQueue()
        """What concerns facts' pages, in order: unlike other commands these may be obeyed in the middle of a step."""
        self._sent = threading.Event()
        """Whether there is a command that waits for the step's end."""
        self.jobs = JobQueue()
        """Short computations, likewise. `wake` after putting one in."""
        self._dead: Exception | None = None
        self._closed = False
        self._step_started: float | None = None
        self.stats = worker.stats()
        self._thread = threading.Thread(target=self._run, name="kalmagrove-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        """To be obeyed between steps; one that nobody waits for does not delay it."""
        self._inbox.put(command)
        self._sent.set()

    def order(self, command: Command) -> None:
        """Of edits: to be obeyed in this order, perhaps in the middle of a step."""
        self._edits.put(command)
        self.wake()

    def wake(self) -> None:
        """There is something new to do."""
        self._inbox.put(_nothing)

    def healthy(self) -> bool:
        """False once closed or dead, or while one step takes longer than `stall_seconds`."""
        started = self._step_started
        stalled = started is not None and time.monotonic() - started > self._stall_seconds
        return self._thread.is_alive() and not (self._closed or self._dead or stalled)

    def require_alive(self) -> None:
        """Raises EngineUnavailable."""
        if self._closed or self._dead is not None or not self._thread.is_alive():
            raise EngineUnavailable(SHUT_DOWN if self._closed else DIED)

    def close(self, seconds: float) -> bool:
        """Give what is left an error and end the thread. Blocks; False if it does not end in time. Idempotent."""
        self._closed = True
        self._inbox.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # --- on the thread itself ---

    def flush(self) -> None:
        """Hand over what there is for others, after the numbers that it changed."""
        self.stats = replace(self._worker.stats(), jobs_dropped=self.jobs.dropped)
        self._outbox.flush()

    def take_edits(self) -> None:
        """Obey the orders that have come."""
        while not self._edits.empty():
            self._edits.get()()
            self.flush()

    def _run(self) -> None:
        failures = 0
        cores = AllCores()
        with torch.inference_mode():
            while self._obey():
                cores.follow()
                try:
                    moved = self._step()
                    failures = 0 if moved else failures
                except Exception as error:
                    failures += 1
                    self._recover(error, failures)
                    moved = True
                self.flush()
                if not (moved or self._worker.idle):
                    time.sleep(BLOCKED_WAIT_SECONDS)
            self._abandon(EngineUnavailable(SHUT_DOWN))
            self.flush()

    def _step(self) -> bool:
        self._step_started = time.monotonic()
        try:
            self._interruption()()
            return self._worker.step(self._interruption(), self._sent.is_set)
        finally:
            self._step_started = None

    def _obey(self) -> bool:
        """Carry out every waiting command; with nothing to do, wait for one. False to stop."""
        self._sent.clear()  # before looking: what comes meanwhile may be set for nothing, never the other way
        while True:
            try:
                nothing_to_do = self._worker.idle and self.jobs.empty and self._edits.empty()
                command = self._inbox.get(block=nothing_to_do or self._dead is not None)
            except Empty:
                return True
            if command is None:
                return False
            try:
                command()
            except Exception as error:
                self._recover(error, MAX_FAILURES)
            if self._dead is not None:  # what was sent before its sender could know
                self._abandon(EngineUnavailable(DIED))
            if self._inbox.empty():
                self.flush()

    def _recover(self, error: Exception, failures: int) -> None:
        log.error("a step of the engine failed", exc_info=error)
        if failures >= MAX_FAILURES:
            self._dead = error
        try:
            self._abandon(EngineUnavailable("a step of the engine failed"))
        except Exception as second:
            log.critical("the engine cannot recover", exc_info=second)
            self._dead = second

    def _abandon(self, error: Exception) -> None:
        """Answer everybody who waits: with an error, or with what was asked for if it needs no model."""
        while self.jobs.carry_out_one():
            pass
        self.take_edits()
        self._worker.abandon(error)

    def _interruption(self) -> Interruption:
        return Interruption(self.take_edits, self.jobs.carry_out_one, self._encode_now)

    def _encode_now(self) -> bool:
        encoded = self._worker.encode_now()
        if encoded:
            self.flush()
        return encoded


def _nothing() -> None:
    """A command that only ends the wait for commands."""
