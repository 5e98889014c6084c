"""Queues, clients that leave, readiness, metrics and the end, whatever engine serves."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.contract.conftest import START_SECONDS, Contract, chat_body
from tests.server.live import process


def until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def idle(contract: Contract) -> bool:
    return contract.metric("kalmagrove_requests_running") == contract.metric('kalmagrove_pages{use="context"}') == 0


def test_a_client_that_leaves_cancels_the_work(contract: Contract) -> None:
    before = contract.metric("kalmagrove_engine_cancellations_total")
    body = chat_body("Tell me everything.", max_tokens=2000, ignore_eos=True, stream=True)
    with contract.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
    until(lambda: idle(contract))
    assert contract.metric("kalmagrove_engine_cancellations_total") == before + 1


def test_a_full_queue_refuses_and_recovers(contract: Contract) -> None:
    """8 may run and 4 wait; of 30 at once some are told to come back later, and all are answered."""
    statuses: list[tuple[int, str | None]] = []

    def ask() -> None:
        body = chat_body("Tell me everything.", max_tokens=24, ignore_eos=True)
        response = httpx.post(f"{contract.url}/v1/chat/completions", json=body, timeout=120)
        statuses.append((response.status_code, response.headers.get("Retry-After")))

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in statuses} == {200, 429}
    assert all(after is not None for status, after in statuses if status == 429)
    assert sum(status == 200 for status, _ in statuses) >= 12
    until(lambda: idle(contract))
    assert contract.http.get("/ready").status_code == 200


def test_metrics(contract: Contract) -> None:
    contract.chat(max_tokens=3)
    shown = contract.http.get("/metrics").text
    for name in (
        "kalmagrove_engine_healthy 1.0",
        'kalmagrove_time_to_first_token_seconds_bucket{endpoint="chat',
        "kalmagrove_edit_visible_seconds_bucket",
        "kalmagrove_retrieval_seconds_bucket",
        "kalmagrove_queue_seconds_bucket",
        "kalmagrove_inter_token_seconds_bucket",
        "kalmagrove_generated_tokens_total",
        "kalmagrove_facts_encoded_total",
        "kalmagrove_page_hits_total",
        "kalmagrove_kb_version",
    ):
        assert name in shown, name
    assert ("vllm:num_requests_running" in shown) is (contract.engine == "vllm")


def test_health_answers_while_the_engine_is_busy(contract: Contract) -> None:
    """A long prompt is being computed; neither probe waits for it."""
    asking = threading.Thread(target=contract.try_chat, args=("word " * 1500,), kwargs={"max_tokens": 2})
    asking.start()
    slowest = 0.0
    with httpx.Client(base_url=contract.url, timeout=30) as probe:
        while asking.is_alive():
            started = time.monotonic()
            assert probe.get("/health").status_code == probe.get("/ready").status_code == 200
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.05)
    asking.join()
    assert slowest < 2.0


@pytest.mark.slow
def test_sigterm_drains(environment: dict[str, str], tmp_path: Path, contract: Contract) -> None:
    """A running stream comes to its end, then the process does. On a store of its own, with the pages of the other."""
    own = {
        **environment,
        "KALMAGROVE_KNOWLEDGE_URL": str(tmp_path / "kb"),
        "KALMAGROVE_DEMO": "false",
        "KALMAGROVE_DRAIN_TIMEOUT_S": "120",  # the stream must end well however slow the machine is
    }
    with process(own, tmp_path / "log", START_SECONDS) as (child, url):
        body = chat_body("Tell me everything.", max_tokens=30, ignore_eos=True, stream=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert last == "data: [DONE]"
        assert child.wait(60) == 0
