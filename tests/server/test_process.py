"""`kalmagrove serve` as a process: refusing to start, draining, and keeping what it acknowledged."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from cpu.threads import SPIN_COUNT
from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from kb.facts import Upsert
from kb.store import Store
from server.http import listening
from server.http.keys import hash_key
from server.http.listening import OTHER_FILES, allow_files
from server.http.protocol import SPARE_CONNECTIONS
from server.loading import StartupError, load
from server.serve import bind
from server.settings import Settings
from tests.server.live import process, start
from tests.server.support import FACTS, chat_body, events


@pytest.fixture
def environment(tmp_path: Path, tiny: Checkpoint) -> dict[str, str]:
    shutil.copytree(tiny.directory, tmp_path / "models" / "tiny")
    return {
        "KALMAGROVE_DATA_DIR": str(tmp_path),
        "KALMAGROVE_MODEL": "tiny",
        "KALMAGROVE_CACHE_GIB": "0.05",
        "KALMAGROVE_DTYPE": "float32",
    }


@pytest.mark.slow
def test_drain(environment: dict[str, str], tmp_path: Path) -> None:
    """A running stream ends well, a new request on an open connection is told to go, and the process ends with 0."""
    with process(environment, tmp_path / "log") as (child, url), httpx.Client(base_url=url, timeout=30) as kept:
        facts = [{"id": id, "text": text} for id, text in FACTS.items()]
        assert kept.put("/admin/kb/facts", json={"facts": facts}).json()["version"] == 1
        answers: list[httpx.Response] = []

        def ask() -> None:
            body = chat_body(max_tokens=800, stream=True)
            answers.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30))

        asking = threading.Thread(target=ask)
        asking.start()
        while "kalmagrove_requests_running 1.0" not in kept.get("/metrics").text:
            assert asking.is_alive()
        child.send_signal(signal.SIGTERM)
        refused = ready = None
        while refused is None and asking.is_alive():
            time.sleep(0.02)
            if (ready := kept.get("/ready")).status_code == 503:
                refused = kept.post("/v1/chat/completions", json=chat_body())
        assert refused is not None, "the stream was over before the server began to drain"
        assert ready is not None
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_draining")
        assert refused.headers["retry-after"]
        new = httpx.get(f"{url}/v1/models")  # on a new connection: the listener stays open while the server drains
        assert (new.status_code, new.json()["error"]["code"]) == (503, "server_draining")
        assert new.headers["retry-after"]
        asking.join(30)
        assert sum(len(e["choices"][0]["delta"].get("content", "")) for e in events(answers[0])) > 100
        assert events(answers[0])[-1]["choices"][0]["finish_reason"] == "length"
        assert child.wait(15) == 0
    with process(environment, tmp_path / "log") as (child, url):
        assert httpx.get(f"{url}/ready").json()["knowledge_version"] == 1
        answer = httpx.post(f"{url}/v1/chat/completions", json=chat_body()).json()
        assert answer["knowledge"]["facts"][0]["id"] == "ceo"
        # The warm-up's own fact, and none of those that are on disk.
        assert "kalmagrove_facts_encoded_total 1.0" in httpx.get(f"{url}/metrics").text
        child.send_signal(signal.SIGINT)
        assert child.wait(15) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_drain_that_takes_too_long_ends_streams_with_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    slow = {"KALMAGROVE_DRAIN_TIMEOUT_S": "0.1"}
    with process({**environment, **slow}, tmp_path / "log") as (child, url):
        body = chat_body(max_tokens=800, stream=True, n=12)
        received = b""
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as response:
            for part in response.iter_bytes():
                if not received:
                    child.send_signal(signal.SIGTERM)
                received += part
        assert b'"error"' in received.split(b"\n\n")[-2]
        assert b"[DONE]" not in received
        assert child.wait(15) == 0


@pytest.mark.slow
def test_hangup_reads_the_keys_anew(environment: dict[str, str], tmp_path: Path) -> None:
    """Also in the moment in which nothing of the file's looks tells that it has changed."""
    path = tmp_path / "client.keys"
    path.write_text(f"ann:{hash_key('kg-ann').hex()}\n")
    before = path.stat()
    with process({**environment, "KALMAGROVE_CLIENT_KEYS_FILE": str(path)}, tmp_path / "log") as (child, url):

        def status(key: str) -> int:
            return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status("kg-ann"), status("kg-bob")) == (200, 401)
        path.write_text(f"bob:{hash_key('kg-bob').hex()}\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        child.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while (status("kg-ann"), status("kg-bob")) != (401, 200):
            assert child.poll() is None
            assert time.monotonic() < deadline
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0


def test_there_are_files_for_all_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        allow_files(Settings(max_connections=300))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300 + SPARE_CONNECTIONS
        allow_files(Settings(max_connections=1))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300 + SPARE_CONNECTIONS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("admin_port", "listeners"), [(None, 1), (8081, 2)])
def test_where_few_files_are_allowed_there_are_fewer_connections(
    monkeypatch: pytest.MonkeyPatch, admin_port: int | None, listeners: int
) -> None:
    allowed = 1024
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(listening, "getrlimit", lambda _: (256, allowed))
    monkeypatch.setattr(listening, "setrlimit", lambda _, pair: limits.append(pair))
    settings = allow_files(Settings(admin_port=admin_port))
    assert limits == [(allowed, allowed)]
    taken = listeners * (settings.max_connections + SPARE_CONNECTIONS)
    assert allowed - OTHER_FILES - listeners < taken <= allowed - OTHER_FILES
    assert allow_files(Settings(max_connections=100)).max_connections == 100
    allowed = 64
    assert allow_files(Settings()).max_connections == 1


def refusal(environment: dict[str, str], log: Path) -> str:
    """What the server says when it does not start."""
    child = start(environment, log)
    assert child.wait(60) in (1, 2)
    text = log.read_text()
    assert "Traceback" not in text
    return " ".join(text.split())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_server_that_cannot_start_says_why_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    flip(tmp_path / "models" / "tiny" / "model.safetensors")
    assert "model.safetensors" in refusal(environment, tmp_path / "log")
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_named(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    flip(tmp_path / "models" / "tiny" / name)
    with pytest.raises(StartupError, match=name):
        load(Settings(data_dir=tmp_path, model="tiny"), Console(quiet=True))


def test_other_files_that_cannot_be_used_are_named(environment: dict[str, str], tmp_path: Path) -> None:
    phi, keys = tmp_path / "phi.safetensors", tmp_path / "keys"
    phi.write_bytes(b"damaged")
    keys.write_text("nonsense")
    for change, named in (
        ({"phi": str(phi)}, "phi.safetensors"),
        ({"phi": str(tmp_path / "absent.safetensors")}, "absent.safetensors"),
        ({"model": "other"}, "other"),
        ({"client_keys_file": keys}, "line 1"),
        ({"cache_gib": 1e-6}, "pages"),
    ):
        with pytest.raises(StartupError, match=named):
            load(Settings(**{"data_dir": tmp_path, "model": "tiny", **change}), Console(quiet=True))


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=str(port)):
            bind("127.0.0.1", port)


def test_a_damaged_store_is_named(environment: dict[str, str], tmp_path: Path, encoder: MiniLMEncoder) -> None:
    with Store.open(tmp_path / "kb", encoder) as store:
        store.apply([Upsert("ceo", "default", FACTS["ceo"])])
    held = [path for path in (tmp_path / "kb").rglob("*") if path.is_file() and b"Mara" in path.read_bytes()]
    for path in held:
        path.write_bytes(path.read_bytes().replace(b"Mara", b"Sara"))
    with pytest.raises(StartupError, match=re.escape(held[0].name)):
        load(Settings(data_dir=tmp_path, model="tiny"), Console(quiet=True))


@pytest.mark.slow
def test_waiting_threads_do_not_spin_for_long(environment: dict[str, str], tmp_path: Path) -> None:
    """libgomp is told before it reads its environment, which it does once."""
    log = tmp_path / "log"
    with process({**environment, "OMP_DISPLAY_ENV": "VERBOSE"}, log):
        assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", log.read_text())) == {str(SPIN_COUNT)}
