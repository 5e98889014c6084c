"""What else comes with a request, over real sockets: more requests, and offers of other protocols."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.server.live import Live, connect, get, listening
from tests.server.support import build_services, chat_body


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    with listening(build_services(tmp_path_factory.mktemp("requests"), tiny, encoder)) as live:
        yield live


def post(path: str, body: dict[str, Any], *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


def test_requests_before_the_answer_are_not_kept(live: Live) -> None:
    """Neither in memory nor at the expense of others: the connection ends with the answer to the first."""
    with connect(live) as connection:
        connection.sendall(get("/health") * 1500)
        connection.settimeout(5)
        received = b""
        while part := connection.recv(2**16):
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert received.lower().count(b"connection: close") == 1


def test_a_client_that_leaves_is_noticed_whatever_it_sent_behind_its_request(live: Live) -> None:
    cancelled = live.cancelled("decode")
    with connect(live) as connection:
        body = chat_body(max_tokens=900, stream=True, ignore_eos=True, knowledge={"enabled": False})
        connection.sendall(post("/v1/chat/completions", body))
        connection.recv(1)
        connection.sendall(get("/health"))
    live.until_idle()
    assert live.cancelled("decode") == cancelled + 1


@pytest.mark.parametrize("cut", [0, 40, 300])
def test_an_offer_of_another_protocol_is_declined(live: Live, cut: int) -> None:
    """As Java's client and `curl --http2` make it with each first request; what comes with it is read."""
    offer = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    request = post("/tokenize", {"prompt": "word " * 60}, *offer)
    with connect(live) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            connection.sendall(request[:cut])
            time.sleep(0.05)
            connection.sendall(request[cut:])
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            assert len(json.loads(answer.read())["tokens"]) > 60
