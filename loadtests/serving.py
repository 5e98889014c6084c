"""Servers of the load test's own: on a free loopback port, with an empty store at first, stopped at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import httpx

from loadtests.client import Target

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0
_OWN = (
    *("HOST", "PORT", "ADMIN_HOST", "ADMIN_PORT", "SSL_CERTFILE", "SSL_KEYFILE", "SSL_KEYFILE_PASSWORD"),
    *("DATA_DIR", "KNOWLEDGE_URL", "DEMO", "CLIENT_KEYS_FILE", "ADMIN_KEYS_FILE"),
)
"""Settings that the load test decides; all others are taken from the environment."""


class ServerStartError(Exception):
    """The server did not become ready; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that is ready, and its process."""

    target: Target
    process: subprocess.Popen[bytes]

    def terminate(self) -> None:
        """SIGTERM; it may already be gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


@contextmanager
def temporary_server(data_dir: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Target]:
    """Serve the models of `data_dir` with an empty store of knowledge. Raises ServerStartError.

    settings    environment variables that differ from our own
    """
    with temporary_home(data_dir) as home, serving(home, settings) as server:
        yield server.target


@contextmanager
def temporary_home(data_dir: Path) -> Iterator[Path]:
    """A data directory with the models of `data_dir` and no knowledge."""
    with tempfile.TemporaryDirectory(prefix="kalmagrove-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        (directory / "models").symlink_to((data_dir / "models").resolve(), target_is_directory=True)
        yield directory


@contextmanager
def serving(
    home: Path, settings: Mapping[str, str] = MappingProxyType({}), *, admin_apart: bool = False
) -> Iterator[Server]:
    """A server of what is in the data directory, stopped at the end. Raises ServerStartError.

    admin_apart     /admin has a listener of its own, as the target says
    """
    port, admin_port = free_ports(2)
    command = [sys.executable, "-m", "server.cli", "serve"]
    environment = {**_environment(home, port), **settings}
    admin_url = None
    if admin_apart:
        environment["KALMAGROVE_ADMIN_PORT"] = str(admin_port)
        admin_url = f"http://127.0.0.1:{admin_port}"
    with running(command, environment, port, ready="/ready", log_path=home / "server.log") as server:
        yield replace(server, target=replace(server.target, admin_url=admin_url))


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    *,
    ready: str,
    log_path: Path,
    timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[Server]:
    """Run a server that listens on this port of loopback, until the block ends. Raises ServerStartError.

    ready       path that answers with success as soon as the server takes requests
    """
    with log_path.open("ab") as log:
        try:
            process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=subprocess.STDOUT)
        except OSError as error:
            raise ServerStartError(str(error)) from error
    server = Server(Target(f"http://127.0.0.1:{port}", pid=process.pid), process)
    with _unwound_on_sigterm():
        try:
            _wait_until_ready(process, f"{server.target.url}{ready}", log_path, timeout_s)
            yield server
        finally:
            _stop(server)


@contextmanager
def _unwound_on_sigterm() -> Iterator[None]:
    """Whoever ends us ends our server as well, as by Ctrl-C: left alone it would keep its model in memory for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


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


def free_port() -> int:
    """One of loopback that nobody listens on now."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """So many, all different."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerStartError(f"the server ended with status {process.returncode}:\n{_tail(log_path)}")
            try:
                if client.get(url).is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.2)
    raise ServerStartError(f"the server was not ready after {timeout_s:.0f} s:\n{_tail(log_path)}")


def _tail(log_path: Path, size: int = 4000) -> str:
    return log_path.read_bytes()[-size:].decode("utf-8", "replace")


def _stop(server: Server) -> None:
    server.terminate()
    try:
        server.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also where somebody insists
        server.process.kill()
        server.process.wait()
