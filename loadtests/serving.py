"""A server of the load test's own: on a free loopback port, with an empty store, stopped at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx

from loadtests.client import Target

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0
_OWN = ("HOST", "PORT", "DATA_DIR", "KNOWLEDGE_URL", "DEMO", "CLIENT_KEYS_FILE", "ADMIN_KEYS_FILE")
"""Settings that the load test decides; all others are taken from the environment."""


class ServerStartError(Exception):
    """The server did not become ready; the message holds the end of its log."""


@contextmanager
def temporary_server(data_dir: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Target]:
    """Serve the models of `data_dir` with an empty store of knowledge. Raises ServerStartError.

    settings    environment variables that differ from our own
    """
    with tempfile.TemporaryDirectory(prefix="kalmagrove-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        (directory / "models").symlink_to((data_dir / "models").resolve(), target_is_directory=True)
        port = _free_port()
        log_path = directory / "server.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", "serve"],
                env={**_environment(directory, port), **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            target = Target(f"http://127.0.0.1:{port}")
            _wait_until_ready(process, target.url, log_path)
            yield target
        finally:
            _stop(process)


def _environment(directory: Path, port: int) -> Mapping[str, str]:
    own = {f"KALMAGROVE_{name}" for name in _OWN}
    rest = {name: value for name, value in os.environ.items() if name not in own}
    return {
        **rest,
        "KALMAGROVE_HOST": "127.0.0.1",
        "KALMAGROVE_PORT": str(port),
        "KALMAGROVE_DATA_DIR": str(directory),
        "KALMAGROVE_DEMO": "false",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerStartError(f"the server ended with status {process.returncode}:\n{_tail(log_path)}")
            try:
                if client.get("/ready").is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.2)
    raise ServerStartError(f"the server was not ready after {READY_TIMEOUT_S:.0f} s:\n{_tail(log_path)}")


def _tail(log_path: Path, size: int = 4000) -> str:
    return log_path.read_bytes()[-size:].decode("utf-8", "replace")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
