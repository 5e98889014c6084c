"""Files of page content: what a restart finds, what a full or vanished disk does, and who is gone for good."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from kan.knowledge.pages import PageContent, page_path, read_pages, write_pages
from server.engine.pages import files as files_module
from server.engine.pages import janitor as janitor_module
from server.engine.pages.complaints import KINDS, Complaints
from server.engine.pages.files import PageFiles
from server.engine.pages.formats import clear_other_formats
from server.engine.pages.life import State
from server.engine.pages.sharing import LOCK

SHAPE = (1, 2, 1, 4)
READ = partial(read_pages, shape=SHAPE, dtype=torch.float32)
CONTENT = PageContent(torch.ones(SHAPE), torch.ones(SHAPE))


def names(path: Path) -> set[str]:
    return {entry.name.removesuffix(".pages") for entry in path.iterdir()} - {LOCK}


def put(path: Path, *keys: str) -> None:
    path.mkdir(exist_ok=True)
    for key in keys:
        write_pages(page_path(path, key), CONTENT)


SIZE_LIMIT = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> Iterator[PageFiles]:
    made = PageFiles([tmp_path / "pages"], SIZE_LIMIT)
    yield made
    made.close()


def keep(files: PageFiles, key: str) -> None:
    files.life.making(key)
    files.life.resident(key)
    files.write(key, lambda: CONTENT)
    files.flush()


def test_what_was_written_is_read(files: PageFiles, tmp_path: Path) -> None:
    keep(files, "a")
    found = files.read("a", READ)
    assert found is not None
    assert torch.equal(found.keys, CONTENT.keys)
    assert files.read("b", READ) is None
    files.life.audit(["a"])


def test_a_damaged_file_is_removed_and_not_trusted(files: PageFiles, tmp_path: Path) -> None:
    keep(files, "a")
    path = page_path(tmp_path / "pages", "a")
    path.write_bytes(path.read_bytes()[:-3])
    assert files.read("a", READ) is None
    files.flush()
    assert names(tmp_path / "pages") == set()
    assert not files.life.is_stored("a")


def test_a_restart_finds_the_files_in_the_order_of_their_use(tmp_path: Path) -> None:
    put(tmp_path, "a", "b", "c")
    size = page_path(tmp_path, "a").stat().st_size
    for age, key in enumerate("cab"):
        os.utime(page_path(tmp_path, key), (age, age))
    (tmp_path / "x.tmp").write_bytes(b"half a file")
    again = PageFiles([tmp_path], 2 * size)
    again.close()
    assert names(tmp_path) == {"a", "b"}


def test_reconciling_removes_what_no_fact_holds(tmp_path: Path) -> None:
    """As after a kill between an edit's reply and the deletion of its file."""
    put(tmp_path, "held", "orphan", "read")
    files = PageFiles([tmp_path], SIZE_LIMIT)
    files.life.read(["read"])
    put(tmp_path, "unknown")
    files.life.forget_all_but({"held"})
    files.reconcile({"held"})
    files.flush()
    assert names(tmp_path) == {"held", "read"}
    files.life.unread(["read"])
    files.close()
    assert names(tmp_path) == {"held"}
    files.life.audit({"held"})


def test_reconciling_sees_files_that_are_gone_and_files_that_came(files: PageFiles, tmp_path: Path) -> None:
    keep(files, "a")
    page_path(tmp_path / "pages", "a").unlink()
    put(tmp_path / "pages", "b")
    files.reconcile()
    files.flush()
    assert files.life.stored_keys() == ["b"]


def test_a_directory_removed_while_running_is_made_again(files: PageFiles, tmp_path: Path) -> None:
    keep(files, "a")
    shutil.rmtree(tmp_path / "pages")
    assert files.read("a", READ) is None
    keep(files, "b")
    assert names(tmp_path / "pages") == {"b"}


def test_a_file_that_cannot_be_deleted_is_told_and_hurts_nobody(
    files: PageFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(files, "a")
    path = page_path(tmp_path / "pages", "a")
    path.unlink()
    (path / "x").mkdir(parents=True)
    assert files.life.forget(["a"]) == ["a"]
    keep(files, "b")
    assert files.life.state("b") is State.MADE
    assert "could not be deleted" in caplog.text


def test_files_give_way_below_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", "b")
    size = page_path(tmp_path, "a").stat().st_size
    usage = shutil.disk_usage(tmp_path)
    files = PageFiles([tmp_path], SIZE_LIMIT, reserve_bytes=usage.free + 1 - size // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=usage.free - size))
    keep(files, "c")
    files.close()
    assert "c" not in names(tmp_path), "it was written below the reserve"
    assert len(names(tmp_path)) < 2


def test_a_write_whose_content_cannot_be_made_is_over(files: PageFiles) -> None:
    def broken() -> PageContent:
        raise RuntimeError("no memory")

    files.life.making("a")
    files.life.resident("a")
    files.write("a", broken)
    files.flush()
    files.life.audit(["a"])
    assert not files.life.is_stored("a")
    keep(files, "b")
    assert files.life.is_stored("b")


def test_stages_have_a_fact_together(tmp_path: Path) -> None:
    stages = [tmp_path / "0", tmp_path / "1"]
    put(stages[0], "whole", "half")
    put(stages[1], "whole")
    files = PageFiles(stages, SIZE_LIMIT)
    assert files.life.stored_keys() == ["whole"]
    assert names(stages[0]) == {"whole"}, "half a fact is no fact"
    put(stages[0], "new")
    files.life.making("new")
    with pytest.raises(FileNotFoundError):
        files.adopt("new")
    put(stages[1], "new")
    assert files.adopt("new")
    files.life.forget(["new"])
    files.close()
    assert [names(stage) for stage in stages] == [{"whole"}, {"whole"}]


def test_a_closed_thread_takes_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from server.engine.pages import janitor

    monkeypatch.setattr(janitor, "CLOSE_SECONDS", 0.05)
    release = threading.Event()
    files = PageFiles([tmp_path], SIZE_LIMIT)

    def hanging() -> PageContent:
        release.wait(10)
        return CONTENT

    files.life.making("a")
    files.life.resident("a")
    files.write("a", hanging)
    files.close()
    release.set()


def test_who_shares_a_directory_knows(tmp_path: Path) -> None:
    first = PageFiles([tmp_path], SIZE_LIMIT)
    assert first.alone()
    second = PageFiles([tmp_path], SIZE_LIMIT)
    assert not first.alone()
    assert not second.alone()
    first.close()
    assert second.alone()
    second.close()
    assert PageFiles([]).alone()


def test_what_is_in_no_book_goes_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion that failed, or a file that came back; but nothing while another process may have it."""
    monkeypatch.setattr(files_module, "SWEEP_SECONDS", 0.0)
    put(tmp_path, "kept")
    files = PageFiles([tmp_path], SIZE_LIMIT)
    put(tmp_path, "orphan")
    (tmp_path / "x.tmp").write_bytes(b"half a file")
    other = PageFiles([tmp_path], SIZE_LIMIT)
    other.life.forget(["orphan"])
    other.flush()
    put(tmp_path, "orphan")
    files._look()
    assert "orphan" in names(tmp_path)
    other.close()
    files._look()
    assert names(tmp_path) == {"kept"}
    files.close()


def test_the_disk_is_looked_at_however_much_there_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor_module, "BUSY_SECONDS", 0.0)
    looks: list[int] = []
    janitor = janitor_module.Janitor(lambda: looks.append(1))
    for key in "abc":
        janitor.remove(key, lambda: None)
    janitor.flush()
    janitor.close()
    assert looks


def test_other_number_formats_are_cleared(tmp_path: Path) -> None:
    used = tmp_path / "bfloat16-8bit"
    for directory in (used, used / "stage-0-of-2", tmp_path / "bfloat16", tmp_path / "float32"):
        directory.mkdir()
        put(directory, "a")
    living = PageFiles([tmp_path / "float32"], SIZE_LIMIT)
    clear_other_formats(tmp_path, used)
    left = {path.parent.relative_to(tmp_path) for path in tmp_path.rglob("a.pages")}
    assert left == {Path("bfloat16-8bit"), Path("bfloat16-8bit/stage-0-of-2"), Path("float32")}
    living.close()
    clear_other_formats(tmp_path, used)
    assert not (tmp_path / "float32" / "a.pages").exists()
    clear_other_formats(tmp_path / "none", used)


def test_room_ends_before_something_else_must_go(tmp_path: Path) -> None:
    put(tmp_path, "a", "b")
    size = page_path(tmp_path, "a").stat().st_size
    files = PageFiles([tmp_path], 3 * size)
    assert files.has_room
    keep(files, "c")
    assert not files.has_room
    files.life.forget(["a"])
    assert files.has_room
    files.close()
    assert not PageFiles([]).has_room


def test_a_disk_that_takes_nothing_is_told_once_and_left_alone(
    files: PageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Full, read-only, somebody else's: every fact would say so, and none made unasked would be kept."""
    shutil.rmtree(tmp_path / "pages")
    (tmp_path / "pages").write_bytes(b"no directory")
    assert files.has_room
    keys = [f"fact-{number}" for number in range(20)]
    for key in keys:
        keep(files, key)
    assert not files.has_room
    assert caplog.text.count("page content on disk") == 1
    files.life.audit(keys)
    (tmp_path / "pages").unlink()
    keep(files, "asked for")
    assert names(tmp_path / "pages") == {"asked for"}, "it is tried for who asks, and works again"
    assert files.has_room


def test_complaints_come_once_a_minute_and_count(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    complaints = Complaints(logging.getLogger("test"), lambda: now)
    for number in range(5):
        complaints.tell(logging.ERROR, "%s is bad: %s", number, OSError(5, "input"))
        complaints.tell(logging.ERROR, "%s is bad: %s", number, OSError(28, "space"))
    assert [record.getMessage() for record in caplog.records] == [
        "0 is bad: [Errno 5] input",
        "0 is bad: [Errno 28] space",
    ]
    now = 61.0
    complaints.tell(logging.ERROR, "%s is bad: %s", 5, OSError(5, "input"))
    assert caplog.messages[2] == "5 is bad: [Errno 5] input (4 more like this since it was last told)"
    for number in range(3 * KINDS):
        complaints.tell(logging.ERROR, f"{number}%s: %s", "", OSError(5, "input"))
    assert len(complaints._told) == KINDS
