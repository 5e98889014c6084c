"""Other people's clients, in an environment of their own (`make test-clients`), against a server of another.

Nothing of this project is imported here: whoever uses these clients has none of it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVING = os.environ.get("KALMAGROVE_TEST_PYTHON", sys.executable)
"""Python of an environment that has the server."""
START_SECONDS = 240.0


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server with a tiny model, which says nothing sensible: what is tried is the protocol."""
    directory = tmp_path_factory.mktemp("serving")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = directory / "log"
    own = {name: value for name, value in os.environ.items() if not name.startswith("KALMAGROVE_")}
    with log.open("wb") as file:
        child = subprocess.Popen(
            [SERVING, "-m", "tests.clients.serving", str(directory)],
            env={**own, "KALMAGROVE_PORT": str(port)},
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _await(f"http://127.0.0.1:{port}/ready", child, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait(30)


def _await(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
