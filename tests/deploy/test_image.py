"""The Dockerfile's own steps, from a bare Debian up to a served answer; read-only root, no privileges."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.serving import free_port
from tests.deploy.bare_root import Build, Image
from tests.deploy.expressions import ROOT

WRITABLE = ("/keys", "/secrets")
CHAT = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "Who is the chief executive of Quillhaven Transit?"}],
    "temperature": 0,
    "max_tokens": 24,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),  # with its set-up and its end, on a machine that has other work
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed"),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The target `cpu`. pip is told by this machine's PIP_* variables where packages are, PIP_ARGS included."""
    directory = tmp_path_factory.mktemp("image")
    directory.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_") and name != "PIP_ARGS"}
    try:
        yield Build(ROOT / "Dockerfile", directory, {"PIP_ARGS": os.environ.get("PIP_ARGS", "")}, env).image("cpu")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_steps_lead_to_a_served_answer(image: Image, tmp_path: Path) -> None:
    assert list(image.root.glob("opt/kalmagrove/lib/python3*/site-packages/kan/kernels/_native*.so"))
    script = (ROOT / "deploy" / "make-keys.sh").read_text("utf-8")
    for _ in range(2):  # the second time it leaves everything as it is
        _run(image, "sh", "-c", script)
    secrets = {path.name: path.read_text().strip() for path in (image.root / "secrets").iterdir()}
    assert secrets.keys() == {"client.key", "metrics.key", "admin.key", "grafana.password", "postgres.password"}
    assert (image.root / "keys" / "pgpass").read_text().endswith(f":{secrets['postgres.password']}\n")
    assert (image.root / "keys" / "pgpass").stat().st_mode & 0o777 == 0o600
    assert (image.root / "keys" / "client.keys").read_text().count("\n") == 2
    with pytest.raises(AssertionError, match="Read-only file system"):
        _run(image, "touch", f"{image.volumes[0]}/anything")
    with _serving(image, tmp_path / "log") as (server, http):
        _run(image, *image.health, KALMAGROVE_PORT=str(http.base_url.port))
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 401
        http.headers["Authorization"] = f"Bearer {secrets['client.key']}"
        answer = http.post("/v1/chat/completions", json=CHAT)
        assert "Mara Ellison" in answer.text
        assert httpx.get(f"{http.base_url}/metrics", headers={"Authorization": f"Bearer {secrets['metrics.key']}"}).text
        _drains(server, http)
    with pytest.raises(AssertionError, match="refused"):
        _run(image, *image.health, KALMAGROVE_PORT=str(http.base_url.port))


def _drains(server: subprocess.Popen[bytes], http: httpx.Client) -> None:
    """SIGTERM while an answer is being streamed: it ends as it would have, then the server."""
    received: list[str] = []
    started = threading.Event()

    def stream() -> None:
        body = {**CHAT, "max_tokens": 60, "stream": True, "ignore_eos": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                received.append(line)
                started.set()

    reader = threading.Thread(target=stream)
    reader.start()
    assert started.wait(60)
    server.send_signal(signal.SIGTERM)
    reader.join(60)
    assert "data: [DONE]" in received
    assert server.wait(40) == 0


def _run(image: Image, *command: str, **env: str) -> None:
    done = subprocess.run(image.inside(command, env, image.read_only(WRITABLE)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def _serving(image: Image, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """The ENTRYPOINT, as docker-compose.yml configures it, but for the port."""
    port = free_port()
    settings = {
        "KALMAGROVE_HOST": "127.0.0.1",
        "KALMAGROVE_PORT": str(port),
        "KALMAGROVE_DEMO": "true",
        "KALMAGROVE_CLIENT_KEYS_FILE": "/keys/client.keys",
        "KALMAGROVE_ADMIN_KEYS_FILE": "/keys/admin.keys",
    }
    command = image.inside(image.entrypoint, settings, image.read_only([*image.volumes]))
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            _wait(server, http, log)
            yield server, http
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def _wait(server: subprocess.Popen[bytes], http: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if http.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
