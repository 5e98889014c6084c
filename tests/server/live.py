"""The service behind a real socket: in a thread of this process, or as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import uvicorn

from loadtests.serving import free_port
from server.http.app import create_app
from server.http.certificate import Certificate
from server.http.listening import configuration
from server.services import Context, Services
from server.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Live:
    """A listening service, and its inside."""

    url: str
    context: Context
    loop: asyncio.AbstractEventLoop

    def inside(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run on the server's own event loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)

    def until_idle(self, seconds: float = 10.0) -> None:
        """Wait until no request is left, then check that every page is back."""
        deadline = time.monotonic() + seconds
        while True:
            stats = self.context.services.engine.stats()
            unfinished = self.context.generations.waiting + self.context.generations.holding
            if stats.waiting + stats.running + stats.pages_context + unfinished == 0:
                break
            assert time.monotonic() < deadline, f"not idle: {stats}"
            time.sleep(0.02)
        self.inside(self.context.services.engine.audit)  # type: ignore[attr-defined]

    def cancelled(self, stage: str) -> float:
        """How many requests were cancelled at the stage."""
        value = self.context.metrics.registry.get_sample_value("kalmagrove_cancellations_total", {"stage": stage})
        return value or 0.0


@contextmanager
def listening(
    services: Services, at: int = 0, certificate: Certificate | None = None, **settings: Any
) -> Iterator[Live]:
    """Serve in a thread until the block ends, at any free port or this one; with a certificate by TLS."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", at))
        app = create_app(Settings(**settings), services)
        certificate = certificate or Certificate.of(app.state.context.settings)
        server = uvicorn.Server(configuration(app, "on", certificate))
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve([listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            scheme = "https" if certificate else "http"
            yield Live(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", app.state.context, loops[0])
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def connect(live: Live) -> socket.socket:
    """Speak to it byte by byte."""
    address = urlsplit(live.url)
    return socket.create_connection((address.hostname, address.port), timeout=5)


def get(path: str) -> bytes:
    """A whole request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@contextmanager
def process(
    environment: Mapping[str, str], log: Path, seconds: float = 60.0, verify: ssl.SSLContext | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`kalmagrove serve` on a free port, once it is ready, which must not take longer than `seconds`. `verify`: it
    speaks TLS, and this trusts it."""
    port = free_port()
    child = start(environment, log, port)
    url = f"{'https' if verify else 'http'}://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + seconds
        while True:
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"{url}/ready", verify=verify or True).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield child, url
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()


def start(environment: Mapping[str, str], log: Path, port: int = 0) -> subprocess.Popen[bytes]:
    """`kalmagrove serve`, whatever becomes of it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("KALMAGROVE_")}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "server.cli", "serve"],
            env={**own, "KALMAGROVE_PORT": str(port), "KALMAGROVE_DEMO": "false", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
