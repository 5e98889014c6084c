"""Grammars tried in a process of their own: what takes too much ends that, and nothing else."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.engine.decoding.trial import PATIENCE_S, Trial
from server.engine.protocol import EngineUnavailable, GrammarTooExpensive
from server.service.forms import Form
from server.service.lark import lark_of


@pytest.fixture
def trial() -> Iterator[Trial]:
    trial = Trial()
    yield trial
    trial.close()
    assert trial._process is None


def process_of(trial: Trial) -> int:
    assert trial._process is not None
    return trial._process.pid


def program(directory: Path, *lines: str) -> Trial:
    """Of a process that says what these lines make of a grammar."""
    path = directory / "program.py"
    begun = ("import os, sys", "os.write(1, b'.')", "sys.stdin.buffer.read(8)")
    path.write_text("\n".join([*begun, *lines]))
    return Trial(str(path))


def test_right_and_wrong_ones_pass_in_one_process(trial: Trial) -> None:
    """What is wrong is told by who compiles it in earnest."""
    trial.require_bounded('start: "a"')
    pid = process_of(trial)
    for source in ("start: (", "", "start: %json {}", "start: /[\\ud800]/", "start: \U0001f98b"):
        trial.require_bounded(source)
    assert process_of(trial) == pid
    os.kill(pid, signal.SIGKILL)  # by the system, that has no memory left
    time.sleep(0.01)
    trial.require_bounded('start: "a"')
    assert process_of(trial) != pid


def test_what_ends_the_process_is_refused(tmp_path: Path) -> None:
    trial = program(tmp_path, "os.kill(os.getpid(), 9)")
    for _ in range(2):
        with pytest.raises(GrammarTooExpensive, match="too long"):
            trial.require_bounded("start: /x/")
    trial.close()


def test_what_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = program(tmp_path, "import time", "time.sleep(60)")
    assert trial._begun()  # however long that takes
    monkeypatch.setattr("server.engine.decoding.trial.PATIENCE_S", 0.1)
    with pytest.raises(GrammarTooExpensive):
        trial.require_bounded("start: /x/")
    assert trial._process is None, "it is ended"
    trial.close()
    trial.close()
    with pytest.raises(EngineUnavailable):
        trial.require_bounded("start: /x/")


def test_who_waits_when_it_is_closed_is_not_told_that_his_grammar_is_bad(tmp_path: Path) -> None:
    trial = program(tmp_path, "import time", "time.sleep(60)")
    assert trial._begun()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(trial.require_bounded, "start: /x/")
        while not trial._lock.locked():
            time.sleep(0.001)
        trial.close()
        with pytest.raises(EngineUnavailable):
            waiting.result()


def test_closed_just_before_the_process_begins_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = program(tmp_path, "import time", "time.sleep(60)")
    begun = trial._begun

    def closed_meanwhile() -> bool:
        trial._closed = True  # as `close` does, which finds no process to end
        return begun()

    monkeypatch.setattr(trial, "_begun", closed_meanwhile)
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        trial.require_bounded("start: /x/")
    assert time.monotonic() - began < PATIENCE_S / 2
    trial.close()


def test_where_there_is_no_such_process_grammars_are_compiled_untried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(str(tmp_path / "nothing.py"))
    with caplog.at_level(logging.ERROR):
        trial.require_bounded("start: /x/")
    assert "untried" in caplog.text
    trial.close()


@pytest.mark.slow
def test_patterns_that_would_take_hours_and_gigabytes(trial: Trial) -> None:
    patterns = [{"type": "string", "pattern": f"(a|b){{{count}}}.*"} for count in range(1, 60)]
    with pytest.raises(GrammarTooExpensive):
        trial.require_bounded(lark_of(Form("json", {"allOf": patterns}, "")))
    trial.require_bounded('start: "a"')
