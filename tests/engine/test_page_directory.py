"""The bounded directory of page content: who goes first, who may not go yet, and what a restart finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.pages.page_directory import PageDirectory
from server.engine.vllm.pages import StagedPages

SIZE = 100


def put(directory: PageDirectory, *keys: str) -> None:
    for key in keys:
        directory.file(key).write_bytes(bytes(SIZE))
        directory.adopt(key)


def names(path: Path) -> set[str]:
    return {entry.name.removesuffix(".pages") for entry in path.iterdir()}


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    directory = PageDirectory(tmp_path, 3 * SIZE)
    put(directory, "a", "b", "c")
    assert directory.touch("a")
    put(directory, "d")
    assert names(tmp_path) == {"a", "c", "d"}
    assert "b" not in directory
    assert not directory.touch("b")


def test_what_is_read_stays(tmp_path: Path) -> None:
    directory = PageDirectory(tmp_path, 2 * SIZE)
    put(directory, "a", "b")
    directory.retain(["a", "b"])
    put(directory, "c", "d")
    assert names(tmp_path) == {"a", "b", "d"}, "the newest stays too, the one before it went"
    directory.remove("a")
    assert "a" in names(tmp_path), "it was deleted under its reader"
    directory.release(["a", "b"])
    assert "a" not in names(tmp_path)
    assert len(names(tmp_path)) == 2


def test_a_second_reader_holds_on(tmp_path: Path) -> None:
    directory = PageDirectory(tmp_path, 9 * SIZE)
    put(directory, "a")
    directory.retain(["a"])
    directory.retain(["a"])
    directory.remove("a")
    directory.release(["a"])
    assert "a" in directory
    directory.release(["a"])
    assert "a" not in directory
    assert names(tmp_path) == set()


@pytest.mark.parametrize("wanted_again", ["keep", "adopt"])
def test_a_removal_is_off_when_the_fact_comes_back(tmp_path: Path, wanted_again: str) -> None:
    directory = PageDirectory(tmp_path, 9 * SIZE)
    put(directory, "a")
    directory.retain(["a"])
    directory.remove("a")
    getattr(directory, wanted_again)("a")
    directory.release(["a"])
    assert names(tmp_path) == {"a"}


def test_a_restart_finds_the_files_in_the_order_of_their_use(tmp_path: Path) -> None:
    directory = PageDirectory(tmp_path, 9 * SIZE)
    put(directory, "a", "b", "c")
    for age, key in enumerate("cab"):
        os.utime(directory.file(key), (age, age))
    (tmp_path / "x.tmp").write_bytes(b"half a file")
    again = PageDirectory(tmp_path, 2 * SIZE)
    assert names(tmp_path) == {"a", "b"}
    assert "c" not in again


def test_adopting_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PageDirectory(tmp_path, SIZE).adopt("a")


def test_stages_have_a_fact_together(tmp_path: Path) -> None:
    stages = [tmp_path / "0", tmp_path / "1"]
    pages = StagedPages(stages, 10 * SIZE)
    for stage in stages:
        (stage / "a.pages").write_bytes(bytes(SIZE))
    (stages[0] / "b.pages").write_bytes(bytes(SIZE))
    pages.adopt("a")
    assert "a" in pages
    with pytest.raises(FileNotFoundError):
        pages.adopt("b")
    assert "b" not in pages
    pages.remove("a")
    assert "a" not in pages
    assert [names(stage) - {"b"} for stage in stages] == [set(), set()]


@given(st.lists(st.tuples(st.sampled_from(["put", "touch", "retain", "release", "remove"]), st.sampled_from("abcdef"))))
def test_the_books_agree_with_the_disk(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]) -> None:
    """Whatever happens: the files there are those it knows, and it is over its bound only because of readers."""
    path = tmp_path_factory.mktemp("books")
    directory = PageDirectory(path, 2 * SIZE)
    readers: dict[str, int] = dict.fromkeys("abcdef", 0)
    for step, key in steps:
        if step == "put":
            put(directory, key)
        elif step == "touch":
            directory.touch(key)
        elif step == "remove":
            directory.remove(key)
        elif step == "retain":
            directory.retain([key])
            readers[key] += 1
        elif readers[key]:
            directory.release([key])
            readers[key] -= 1
        found = names(path)
        assert found == {key for key in readers if key in directory}
        unread = [key for key in found if not readers[key]]
        assert len(found) <= 2 or len(unread) <= 1, "more than the newest is kept without a reader"
