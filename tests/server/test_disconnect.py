"""Over real sockets: a client that leaves cancels its work at every stage; clients that come and go leave nothing."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import GenerationRequest, SamplingParams
from server.service.retrieval import Questions, Retrieved
from tests.server.live import Live, listening
from tests.server.support import FACTS, MODEL, QUESTION, build_services, chat_body


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    services = build_services(tmp_path_factory.mktemp("live"), tiny, encoder, max_running=4)
    with listening(services, max_running=4, max_waiting=64) as live:
        facts = [{"id": id, "text": text} for id, text in FACTS.items()]
        assert httpx.put(f"{live.url}/admin/kb/facts", json={"facts": facts}).status_code == 200
        yield live
        live.until_idle()


def connect(live: Live, path: str, body: object) -> socket.socket:
    """Send a request by hand, so that the connection can be dropped at will."""
    address = urlsplit(live.url)
    content = json.dumps(body).encode()
    connection = socket.create_connection((address.hostname, address.port))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    connection.sendall(head.encode() + b"\r\n\r\n" + content)
    return connection


def wait_for(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
def test_while_tokens_are_made(live: Live, stream: bool) -> None:
    before = live.cancelled("decode")
    generated = live.context.services.engine.stats().generated_tokens
    connection = connect(live, "/v1/chat/completions", chat_body(max_tokens=700, stream=stream))
    wait_for(lambda: live.context.services.engine.stats().generated_tokens > generated + 5)
    connection.close()
    wait_for(lambda: live.cancelled("decode") == before + 1)
    live.until_idle()
    assert live.context.services.engine.stats().generated_tokens < generated + 900


@pytest.mark.parametrize("stream", [False, True])
def test_while_queued(live: Live, stream: bool) -> None:
    engine = live.context.services.engine

    async def occupy() -> list[object]:
        endless = SamplingParams(max_tokens=900, ignore_eos=True)
        return [engine.generate(GenerationRequest(f"busy-{i}", (1,), sampling=endless)) for i in range(4)]

    before = live.cancelled("queue")
    busy = live.inside(occupy)
    wait_for(lambda: engine.stats().running == 4)
    connection = connect(live, "/v1/chat/completions", chat_body(stream=stream))
    wait_for(lambda: engine.stats().waiting == 1)
    connection.close()
    wait_for(lambda: engine.stats().waiting == 0)
    assert engine.stats().running == 4
    wait_for(lambda: live.cancelled("queue") == before + 1)

    async def release() -> None:
        for request in busy:
            await request.aclose()  # type: ignore[attr-defined]

    live.inside(release)
    live.until_idle()


def test_while_knowledge_is_looked_up(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    real = live.context.retrieval.found

    def slow(questions: Questions, place: int, began: float, cold_tokens: float) -> Retrieved:
        entered.set()
        go_on.wait(10)
        return real(questions, place, began, cold_tokens)

    before = live.cancelled("retrieval")
    monkeypatch.setattr(live.context.retrieval, "found", slow)
    connection = connect(live, "/v1/chat/completions", chat_body())
    assert entered.wait(5)
    connection.close()
    wait_for(lambda: live.cancelled("retrieval") == before + 1)
    go_on.set()
    live.until_idle()


def test_all_choices_are_cancelled(live: Live) -> None:
    engine = live.context.services.engine
    cancellations = engine.stats().cancellations
    body = {"model": MODEL, "prompt": ["one", "two"], "n": 2, "max_tokens": 900, "ignore_eos": True}
    connection = connect(live, "/v1/completions", body)
    wait_for(lambda: engine.stats().running == 4)
    connection.close()
    wait_for(lambda: engine.stats().cancellations == cancellations + 4)
    live.until_idle()


def test_a_request_half_sent_is_given_up(live: Live) -> None:
    address = urlsplit(live.url)
    connection = socket.create_connection((address.hostname, address.port))
    head = b"PUT /admin/kb/facts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(head + b"Content-Length: 50\r\n\r\n{")
    in_flight = "kalmagrove_http_requests_in_flight"
    wait_for(lambda: live.context.metrics.registry.get_sample_value(in_flight) == 1)
    connection.close()
    wait_for(lambda: live.context.metrics.registry.get_sample_value(in_flight) == 0)


async def one_client(http: httpx.AsyncClient, chance: random.Random, until: float) -> int:
    """Asks and leaves at random moments; returns how many answers it stayed for."""
    stayed = 0
    while time.monotonic() < until:
        body = chat_body(
            QUESTION * chance.randint(1, 4),
            stream=chance.random() < 0.6,
            max_tokens=chance.choice([1, 5, 40, 200]),
            n=chance.choice([1, 1, 2]),
            knowledge={"top_k": chance.choice([0, 1, 3])},
        )
        try:
            async with asyncio.timeout(chance.choice([0.0005, 0.005, 0.05, 0.5, 5])):
                response = await http.post("/v1/chat/completions", json=body)
                assert response.status_code in (200, 429, 503), response.text
                stayed += response.status_code == 200
        except TimeoutError:
            pass
        await asyncio.sleep(chance.random() * 0.05)
    return stayed


async def churn(live: Live, seconds: float) -> None:
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=8)
    async with httpx.AsyncClient(base_url=live.url, limits=limits, timeout=30, trust_env=False) as http:

        async def watch() -> None:
            async with httpx.AsyncClient(base_url=live.url, timeout=10, trust_env=False) as probe:
                number = 0
                while time.monotonic() < until:
                    assert (await probe.get("/ready")).status_code == 200
                    number += 1
                    fact = {"id": f"churn{number % 5}", "text": f"Fact {number} comes and goes."}
                    assert (await probe.put("/admin/kb/facts", json={"facts": [fact]})).status_code == 200
                    await asyncio.sleep(0.05)

        clients = [one_client(http, random.Random(seed), until) for seed in range(64)]
        stayed = await asyncio.gather(watch(), *clients)
    assert sum(count for count in stayed if count) > 0
    assert any(live.cancelled(stage) for stage in ("queue", "decode"))


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_64_clients_coming_and_going(live: Live, seconds: float) -> None:
    asyncio.run(churn(live, seconds))
    live.until_idle(30)
    assert httpx.get(f"{live.url}/ready").status_code == 200
    assert httpx.post(f"{live.url}/v1/chat/completions", json=chat_body()).status_code == 200


def test_the_log_of_a_dropped_client_is_no_error(live: Live, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    connection = connect(live, "/v1/chat/completions", chat_body(max_tokens=700, stream=True))
    connection.recv(1000)
    connection.close()
    live.until_idle()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL", "WARNING")]
