"""Disk full and failing fsync, by the kernel's file size limit and by a preloaded fsync that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kb.verification import verify
from tests.kb.editing import StartEditor


def content(editors: StartEditor, directory: Path) -> Any:
    with editors(directory) as editor:
        return editor.start["content"]


def test_a_full_disk_refuses_edits_until_there_is_space(tmp_path: Path, editors: StartEditor) -> None:
    directory = tmp_path / "kb"
    with editors(directory) as editor:
        assert editor.ask(upsert={"a": "one"})["version"] == 1
        editor.ask(file_bytes=1000)  # not even what is committed could be moved elsewhere
        for _ in range(3):
            refused = editor.ask(upsert={"a": "two", "b": "x" * 4000})
            assert (refused["ok"], refused["recorded"], refused["version"]) == (False, False, 1)
            assert "facts.db" in refused["error"]
            assert editor.ask(read="a")["text"] == "one"
            assert editor.ask(read="b")["text"] is None
        editor.ask(file_bytes=10**9)
        assert editor.ask(upsert={"a": "three"})["version"] == 2
    assert content(editors, directory) == {"a": "three"}


def test_an_edit_refused_half_written_is_not_found_after_a_crash(tmp_path: Path, editors: StartEditor) -> None:
    directory = tmp_path / "kb"
    with editors(directory) as editor:
        editor.ask(upsert={"a": "one"})
        editor.ask(file_bytes=(directory / "facts.db-wal").stat().st_size + 2000)
        refused = editor.ask(upsert={"b": "x" * 4000, "c": "y" * 4000, "d": "z" * 4000, "e": "w" * 4000})
        assert (refused["ok"], refused["recorded"]) == (False, False)
        editor.kill()
    assert content(editors, directory) == {"a": "one"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_failing_fsync_refuses_edits(tmp_path: Path, editors: StartEditor, crash: bool) -> None:
    directory, switch = tmp_path / "kb", tmp_path / "failing"
    with editors(directory, switch) as editor:
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
    assert content(editors, directory) == {"b": "three"}


def test_an_edit_refused_wholly_written_is_not_found_after_a_crash(tmp_path: Path, editors: StartEditor) -> None:
    directory, switch = tmp_path / "kb", tmp_path / "failing"
    with editors(directory, switch) as editor:
        editor.ask(upsert={"a": "one"})
        switch.write_text("once:facts.db-wal")
        refused = editor.ask(upsert={"a": "two"})
        assert (refused["ok"], refused["recorded"]) == (False, False)
        assert not switch.exists()
        editor.kill()
    assert content(editors, directory) == {"a": "one"}


@pytest.mark.parametrize("after", ["edit", "crash", "close"])
def test_a_failing_marker_refuses_the_edit_which_the_log_still_holds(
    tmp_path: Path, editors: StartEditor, after: str
) -> None:
    directory, switch = tmp_path / "kb", tmp_path / "failing"
    with editors(directory, switch) as editor:
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
    assert content(editors, directory) == expected


@pytest.mark.parametrize("crash", [False, True])
def test_history_that_could_not_be_let_go_is_kept(tmp_path: Path, editors: StartEditor, crash: bool) -> None:
    directory, switch = tmp_path / "kb", tmp_path / "failing"
    with editors(directory, switch) as editor:
        for number in range(6):
            editor.ask(upsert={"a": str(number), f"b{number}": "text"})
        switch.write_text("-wal")
        refused = editor.ask(compact=True)
        assert (refused["ok"], refused["recorded"]) == (False, False)
        if crash:
            editor.kill()
        switch.unlink()
        if not crash:
            assert editor.ask(compact=True) == {"ok": True, "gone": 4, "oldest": 4}
            assert editor.ask(upsert={"a": "6"})["version"] == 7
    with editors(directory, switch) as editor:
        assert editor.start["version"] == 7 - crash
        assert editor.start["content"]["a"] == str(6 - crash)
        assert editor.ask(upsert={"a": "more"})["version"] == 8 - crash
    assert verify(directory).version == 8 - crash
