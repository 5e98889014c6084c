"""A full queue answers before a request is read, and keeps the connection where that is cheap."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from socket import socket

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.full import GENERATING, MOST_UNREAD
from server.http.keys import Keys, hash_key
from server.service.admission import Key
from tests.server.live import Live, connect, get, listening
from tests.server.support import build_services, chat_body

CHAT = "/v1/chat/completions"
BODY = json.dumps(chat_body()).encode()


@contextmanager
def taken(live: Live, caller: str, places: int) -> Iterator[None]:
    """So many places are somebody's."""
    held = ExitStack()

    async def take() -> None:
        held.enter_context(live.context.generations.join(Key(caller), places))

    async def give() -> None:
        held.close()

    live.inside(take)
    try:
        yield
    finally:
        live.inside(give)


@pytest.fixture
def full(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    with listening(build_services(tmp_path, tiny, encoder), max_running=1, max_waiting=1) as live:
        with taken(live, "local", 2):
            yield live
        assert httpx.post(f"{live.url}{CHAT}", json=chat_body()).status_code == 200


def head(path: str, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def answer(connection: socket) -> tuple[HTTPResponse, bytes]:
    response = HTTPResponse(connection)
    response.begin()
    return response, response.read()


@pytest.mark.parametrize("path", sorted(GENERATING))
def test_refused_before_the_body_has_come(full: Live, path: str) -> None:
    with connect(full) as client:
        client.sendall(head(path, "Content-Length: 100"))
        response, body = answer(client)
    assert (response.status, json.loads(body)["error"]["code"]) == (429, "server_overloaded")
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("late", [False, True])
def test_a_small_body_is_passed_over_and_the_connection_goes_on(full: Live, late: bool) -> None:
    with connect(full) as client:
        request = head(CHAT, f"Content-Length: {len(BODY)}")
        for _ in range(3):
            client.sendall(request if late else request + BODY)
            assert answer(client)[0].status == 429
            if late:
                client.sendall(BODY)
        client.sendall(get("/health"))
        assert answer(client)[0].status == 200


@pytest.mark.parametrize("length", [f"Content-Length: {MOST_UNREAD + 1}", "Transfer-Encoding: chunked"])
def test_a_large_body_is_not_waited_for(full: Live, length: str) -> None:
    with connect(full) as client:
        client.sendall(head(CHAT, length))
        response, _ = answer(client)
        assert (response.status, response.headers["Connection"]) == (429, "close")
        assert client.recv(1) == b""


def test_what_needs_no_place_is_answered(full: Live) -> None:
    with httpx.Client(base_url=full.url) as client:
        assert client.get("/health").status_code == client.get("/v1/models").status_code == 200
        embedded = client.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "a"})
        assert embedded.status_code == 200
        fact = {"id": "a", "text": "The Cobalt Line ends at the harbour."}
        assert client.put("/admin/kb/facts", json={"facts": [fact]}).status_code == 200
        assert client.post(CHAT, content=b"not json").status_code == 429
        metrics = client.get("/metrics").text
    assert f'kalmagrove_http_requests_total{{method="POST",route="{CHAT}",status="429"}} 1.0' in metrics
    assert 'kalmagrove_refusals_total{reason="server_overloaded"} 1.0' in metrics


def test_full_for_one_is_not_full_for_another(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    file = tmp_path / "keys"
    file.write_text("".join(f"{name}:{hash_key(name).hex()}\n" for name in ("greedy", "modest")))
    services = build_services(tmp_path, tiny, encoder, Keys.read(file, None))
    with listening(services, max_running=8, max_waiting=16) as live:
        settings = live.context.settings
        most = settings.max_running + math.ceil(settings.max_waiting * settings.key_share)
        with taken(live, "greedy", most):
            found = {
                key: httpx.post(f"{live.url}{CHAT}", json=chat_body(), headers={"Authorization": f"Bearer {key}"})
                for key in ("greedy", "modest", "nobody")
            }
    assert {key: one.status_code for key, one in found.items()} == {"greedy": 429, "modest": 200, "nobody": 401}
