"""Other people's clients, in an environment of their own (`make test-clients`), against a server of another.

Nothing of this project is imported here: whoever uses these clients has none of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.clients.fact import FACT

ROOT = Path(__file__).resolve().parents[2]
SERVING = os.environ.get("KALMAGROVE_TEST_PYTHON", sys.executable)
"""Python of an environment that has the server."""
START_SECONDS = 240.0


@pytest.fixture(scope="session")
def page_url() -> Iterator[str]:
    """Where web pages come from: another origin than the server's."""
    directory = Path(__file__).parent / "browser"
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, page_url: str) -> Iterator[str]:
    """Of a server with a tiny model, which says nothing sensible: what is tried is the protocol."""
    directory = tmp_path_factory.mktemp("serving")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = directory / "log"
    own = {name: value for name, value in os.environ.items() if not name.startswith("KALMAGROVE_")}
    with log.open("wb") as file:
        child = subprocess.Popen(
            [SERVING, "-m", "tests.clients.serving", str(directory)],
            env={**own, "KALMAGROVE_PORT": str(port), "KALMAGROVE_CORS_ORIGINS": page_url},
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


@pytest.fixture
def informed(url: str) -> Iterator[str]:
    """With the fact that the forced answer says, which is then taken away: others use the server too."""
    address = f"{url.removesuffix('/v1')}/admin/kb/facts"
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(address, json.dumps({"facts": [FACT]}).encode(), headers, method="PUT"), timeout=30):
        yield url
    with urlopen(Request(f"{address}/{FACT['id']}", method="DELETE"), timeout=30):
        pass


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
