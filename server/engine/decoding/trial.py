"""Grammars are tried in a process that may be ended, before they are compiled in one that may not.

The compiler's own bounds leave some of its time and memory out: of n patterns that all have to be found in a text it
looks through 2^n states, which are minutes and gigabytes from n = 25 on, and nothing ends a thread.
"""

from __future__ import annotations

import logging
import select
import subprocess
import sys
from contextlib import suppress
from threading import Lock

from server.engine.decoding import trial_process
from server.engine.protocol import EngineUnavailable, GrammarTooExpensive

PATIENCE_S = 30.0
"""For an answer, where the processor is busy with others; what the process itself may take is in `trial_process`."""
logger = logging.getLogger("kalmagrove.grammars")


class Trial:
    """Thread-safe. The process begins with the first grammar, and ends with ours, however that ends."""

    def __init__(self, program: str = trial_process.__file__) -> None:
        self._program = program
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def require_bounded(self, source: str) -> None:
        """Blocks. Raises GrammarTooExpensive if compiling it takes too much; EngineUnavailable after `close`. What else
        is wrong is not told."""
        data = source.encode()
        with self._lock:
            passed = self._closed or not self._begun()
            # Asked again: what `close` ended may have been the process before this one.
            passed = passed or self._closed or self._said(len(data).to_bytes(trial_process.LENGTH_BYTES) + data)
            if self._closed:
                raise EngineUnavailable("grammars are not compiled any more")
            if not passed:
                self._end()
                raise GrammarTooExpensive("it takes too long, or too much memory, to compile")

    def close(self) -> None:
        """Nothing is tried any more. Idempotent."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()  # whoever waits for its answer has one
        with self._lock:
            self._end()

    def _begun(self) -> bool:
        """False if there can be no such process."""
        if self._process is not None and self._process.poll() is None:
            return True
        self._end()
        command = [sys.executable, "-P", self._program]
        pipe = subprocess.PIPE
        with suppress(OSError):
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
            )
        if self._process is not None and self._said(b""):
            return True
        logger.error("no process to try grammars in could be started: this one is compiled untried")
        self._end()
        return False

    def _said(self, data: bytes) -> bool:
        """Whether it answers, told that."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        poll = select.poll()  # select() knows no file handle above 1023
        poll.register(process.stdout, select.POLLIN)
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except OSError:
            return False
        return bool(poll.poll(PATIENCE_S * 1000)) and process.stdout.read(1) == trial_process.DONE

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError), process:  # what it did not read
                pass
