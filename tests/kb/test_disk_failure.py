"""Disk full and failing fsync, by the kernel's file size limit and by a preloaded fsync that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Editor:
    """A store in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.start = self._answer()

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()


@contextmanager
def editing(program: Path, directory: Path, **environment: str) -> Iterator[Editor]:
    command = [sys.executable, str(program), str(directory)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    with process:
        yield Editor(process)


def content(program: Path, directory: Path) -> Any:
    with editing(program, directory) as editor:
        return editor.start["content"]


def test_a_full_disk_refuses_edits_until_there_is_space(tmp_path: Path, editor_program: Path) -> None:
    directory = tmp_path / "kb"
    with editing(editor_program, directory) as editor:
        assert editor.ask(upsert={"a": "one"})["version"] == 1
        full = (directory / "facts.db-wal").stat().st_size + 2000
        editor.ask(file_bytes=full)
        for _ in range(3):
            refused = editor.ask(upsert={"a": "two", "b": "x" * 4000})
            assert (refused["ok"], refused["recorded"], refused["version"]) == (False, False, 1)
            assert "facts.db" in refused["error"]
            assert editor.ask(read="a")["text"] == "one"
            assert editor.ask(read="b")["text"] is None
        editor.ask(file_bytes=10**9)
        assert editor.ask(upsert={"a": "three"})["version"] == 2
    assert content(editor_program, directory) == {"a": "three"}


def test_a_refused_edit_is_not_found_after_a_crash(tmp_path: Path, editor_program: Path) -> None:
    directory = tmp_path / "kb"
    with editing(editor_program, directory) as editor:
        editor.ask(upsert={"a": "one"})
        editor.ask(file_bytes=(directory / "facts.db-wal").stat().st_size + 2000)
        assert not editor.ask(upsert={"b": "x" * 4000})["ok"]
        editor.kill()
    assert content(editor_program, directory) == {"a": "one"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_failing_fsync_refuses_edits(tmp_path: Path, editor_program: Path, failing_disk: Path, crash: bool) -> None:
    directory, switch = tmp_path / "kb", tmp_path / "failing"
    with editing(editor_program, directory, LD_PRELOAD=str(failing_disk), FAILING_DISK=str(switch)) as editor:
        assert editor.ask(upsert={"a": "one"})["version"] == 1
        switch.touch()
        for _ in range(2):
            refused = editor.ask(upsert={"a": "two"})
            assert (refused["ok"], refused["recorded"], refused["version"]) == (False, False, 1)
            assert editor.ask(read="a")["text"] == "one"
        switch.unlink()
        assert editor.ask(upsert={"b": "three"})["version"] == 2
        assert editor.ask(delete=["a"])["version"] == 3
        if crash:
            editor.kill()
    assert content(editor_program, directory) == {"b": "three"}


@pytest.mark.parametrize("after", ["edit", "crash", "close"])
def test_a_failing_marker_refuses_the_edit_which_the_log_still_holds(
    tmp_path: Path, editor_program: Path, failing_disk: Path, after: str
) -> None:
    directory, switch = tmp_path / "kb", tmp_path / "failing"
    with editing(editor_program, directory, LD_PRELOAD=str(failing_disk), FAILING_DISK=str(switch)) as editor:
        assert editor.ask(upsert={"a": "one"})["version"] == 1
        switch.write_text("facts.db.head")
        refused = editor.ask(upsert={"a": "two"})
        assert (refused["ok"], refused["recorded"], refused["version"]) == (False, True, 1)
        assert "facts.db.head" in refused["error"]
        assert editor.ask(read="a")["text"] == "one"
        # The recorded batch is not acknowledged, so nothing may be stacked upon it either.
        assert not editor.ask(upsert={"b": "three"})["ok"]
        assert editor.ask(read="a")["text"] == "one"
        switch.unlink()
        if after == "edit":
            assert editor.ask(upsert={"b": "three"})["version"] == 3
            assert editor.ask(read="a")["text"] == "two"
        if after == "crash":
            editor.kill()
    expected = {"a": "two", "b": "three"} if after == "edit" else {"a": "two"}
    assert content(editor_program, directory) == expected
