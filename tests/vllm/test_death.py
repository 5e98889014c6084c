"""kill -9 of vLLM's processes, and of the server itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from tests.server.live import process

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` has an environment with it")

MODEL = "smollm2-135m"
START_SECONDS = 240.0
FACT = "The chief executive of Zorvex is Mara Lindqvist."
BODY = {
    "model": MODEL,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Who is the chief executive of Zorvex?"}],
}


@pytest.fixture
def environment(tmp_path: Path, smollm2: Checkpoint) -> dict[str, str]:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / MODEL).symlink_to(smollm2.directory)
    return {"KALMAGROVE_DATA_DIR": str(tmp_path), "KALMAGROVE_ENGINE": "vllm", "KALMAGROVE_DTYPE": "float32"}


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """(pid, name) of children, their children, and so on."""
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()
            name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[1]) == pid:
            yield int(entry.name), name
            yield from descendants(int(entry.name))


def until(condition: Callable[[], bool], what: str, seconds: float) -> float:
    """Seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, what
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "VLLM::Worker"])
def test_a_killed_engine_fails_what_runs_and_comes_back(
    environment: dict[str, str], victim: str, tmp_path: Path
) -> None:
    with process(environment, tmp_path / "log", START_SECONDS) as (server, url), httpx.Client(base_url=url) as http:
        assert http.put("/admin/kb/facts", json={"facts": [{"id": "ceo", "text": FACT}]}, timeout=60).status_code == 200
        last: list[str] = []

        def stream() -> None:
            body = {**BODY, "stream": True, "max_tokens": 2000, "ignore_eos": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
                last.append([line for line in response.iter_lines() if line][-1])

        threads = [threading.Thread(target=stream) for _ in range(4)]
        for thread in threads:
            thread.start()
        running = "kalmagrove_requests_running 4.0"
        until(lambda: running in http.get("/metrics").text, "four running streams", 60)
        (pid,) = [pid for pid, name in descendants(server.pid) if victim in name]
        os.kill(pid, signal.SIGKILL)
        until(lambda: http.get("/ready").status_code == 503, "/ready did not turn", 10)
        for thread in threads:
            thread.join(30)
        assert len(last) == 4
        assert all(line.startswith('data: {"error"') for line in last), last
        assert http.get("/health").status_code == 200
        refused = http.post("/v1/chat/completions", json=BODY)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        seconds = until(lambda: http.get("/ready").status_code == 200, "it did not come back", START_SECONDS)
        print(f"back after {seconds:.0f} s")
        answer = http.post("/v1/chat/completions", json={**BODY, "max_tokens": 12}, timeout=60).json()
        assert "Lindqvist" in answer["choices"][0]["message"]["content"]


@pytest.mark.timeout(600)
def test_a_killed_server_leaves_no_process_behind(environment: dict[str, str], tmp_path: Path) -> None:
    with process(environment, tmp_path / "log", START_SECONDS) as (server, _):
        left = [pid for pid, name in descendants(server.pid) if "VLLM" in name]
        assert len(left) >= 2
        server.send_signal(signal.SIGKILL)
        server.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "vLLM's processes stayed", 20)
