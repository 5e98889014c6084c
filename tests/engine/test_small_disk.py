"""Page content on a disk that is really full: it gives way to whoever else writes there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kan.knowledge.pages import PageContent
from server.engine.pages.files import PageFiles

DISK = 4 << 20
CONTENT = PageContent(torch.ones(1, 256, 4, 64), torch.ones(1, 256, 4, 64))  # 512 KiB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def keep(files: PageFiles, *keys: str) -> None:
    for key in keys:
        files.life.making(key)
        files.life.resident(key)
        files.write(key, lambda: CONTENT)
    files.flush()


@pytest.mark.parametrize("reserve", [0, 1 << 20])
def test_pages_leave_the_reserve_and_give_way_to_others(disk: Path, reserve: int) -> None:
    files = PageFiles([disk / "pages"], 1 << 30, reserve)
    keys = [f"fact-{number}" for number in range(20)]
    keep(files, *keys)
    assert 2 <= len(files.life.stored_keys()) < 8
    log = disk / "log"
    for size in (reserve // 2, 2 << 20, 3 << 20):  # somebody else's file grows
        for _ in range(20):
            try:
                log.write_bytes(bytes(size))
                break
            except OSError:  # the disk is full: pages give way, and the next attempt succeeds
                files.life.trim(size)
                files.flush()
        assert log.stat().st_size == size
    keep(files, "one more")
    files.close()
    assert len(list((disk / "pages").glob("*.tmp"))) == 0, "half-written files are left"
    files.life.audit([*keys, "one more"])
