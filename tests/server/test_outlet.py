"""A log that nobody reads, that has no room, or whose reader leaves: the server neither waits for it nor dies of it."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from server.outlet import Outlet
from tests.server.live import start
from tests.server.test_process import environment

__all__ = ["environment"]
PIPE_BYTES = 4096
"""As few as the operating system lets it hold."""
LINE = "x" * 99 + "\n"
LINES = 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its two ends. Tests may close them."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield read, write
    for end in (read, write):
        with suppress(OSError):
            os.close(end)


def test_who_does_not_read_is_not_waited_for(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """And learns afterwards how much is missing."""
    read, write = pipe
    with open(write, "w", closefd=False) as stream:
        outlet = Outlet(stream, most=100)
        with caplog.at_level(logging.WARNING, "kalmagrove.log"):
            for _ in range(LINES):
                assert outlet.write(LINE) == len(LINE)
            received = b""
            os.set_blocking(read, False)
            while not caplog.records:
                with suppress(BlockingIOError):
                    received += os.read(read, 2**16)
    outlet.finish()
    (told,) = caplog.records
    (dropped,) = told.args or ()
    assert isinstance(dropped, int)
    assert 0 < dropped < LINES
    with suppress(BlockingIOError):
        received += os.read(read, 2**20)
    assert received.count(b"\n") + dropped == LINES


def test_everything_is_written_in_its_order_before_the_end(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        outlet = Outlet(stream)
        for number in range(1000):
            outlet.write(f"{number}\n")
        outlet.finish()
    assert (tmp_path / "log").read_text().split() == list(map(str, range(1000)))


def test_what_cannot_be_written_is_gone(pipe: tuple[int, int]) -> None:
    """Rich would end the process when the reader of its output has left."""
    os.close(pipe[0])
    full, left, closed = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"), os.fdopen(pipe[1], "w"), io.StringIO()
    closed.close()
    for stream in (full, left, closed, None):
        outlet = Outlet(stream)
        Console(file=outlet).print("KalmaGrove serves")  # type: ignore[arg-type]
        logging.StreamHandler(outlet).handle(logging.makeLogRecord({"msg": "serving"}))
        outlet.finish()
        assert not outlet.writing
        with suppress(OSError):
            if stream is not None:
                stream.close()


@pytest.mark.slow
def test_a_server_goes_on_without_its_log(environment: dict[str, str], tmp_path: Path, pipe: tuple[int, int]) -> None:
    """While nobody reads it, and once its reader has left."""
    read, write = pipe
    child = start(environment, Path(f"/proc/self/fd/{write}"))
    os.close(write)
    try:
        said = b""
        while b" at http://" not in said:
            said += os.read(read, 2**16)
        url = said.split(b" at ")[1].split()[0].decode()
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(PIPE_BYTES // 25):
                assert client.get("/health").status_code == 200
            os.close(read)
            for _ in range(10):
                assert client.get("/health").status_code == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
