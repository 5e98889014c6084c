"""Connections that mean harm, over real sockets: what they send before a request is there is bounded, and so is how
long they may take, and nobody else notices them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.protocol import SPARE_CONNECTIONS
from tests.server.live import Live, connect, get, listening
from tests.server.support import build_services

MAX_CONNECTIONS = 4
HEAD_BYTES = 64 * 2**10
HEAD_SECONDS = 0.6
BODY_SECONDS = 1.5
UNREAD_SECONDS = 0.5
MUCH = 2**26
"""Bytes: more than the operating system takes for a server that does not read."""
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    services = build_services(tmp_path_factory.mktemp("hostile"), tiny, encoder)
    bounds = {
        "max_connections": MAX_CONNECTIONS,
        "header_timeout_s": HEAD_SECONDS,
        "send_timeout_s": UNREAD_SECONDS,
        "body_timeout_s": BODY_SECONDS,
        "min_import_bytes_per_s": 256,
    }
    with listening(services, **bounds) as live:
        yield live
        live.until_idle()


def pour(connection: socket.socket, first: bytes, more: Iterator[bytes], most: int = MUCH) -> int:
    """Send until the server does not want any more; how much it took."""
    sent = len(first)
    try:
        connection.sendall(first)
        while sent < most:
            part = next(more)
            connection.sendall(part)
            sent += len(part)
    except OSError:
        pass
    return sent


def drip(connection: socket.socket, first: bytes, byte: bytes, seconds: float = 5.0) -> float:
    """Send a byte now and then until the server hangs up; how long it put up with that."""
    began = time.monotonic()
    connection.sendall(first)
    connection.settimeout(0.05)
    while time.monotonic() - began < seconds:
        try:
            connection.sendall(byte)
            if not connection.recv(1, socket.MSG_PEEK):
                break
            time.sleep(0.05)
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error object of what was answered before the connection was closed."""
    connection.settimeout(5)
    received = b""
    try:
        while part := connection.recv(2**16):
            received += part
    except ConnectionResetError:  # what we sent after it was closed
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return int(head.split()[1]), error


def lines() -> Iterator[bytes]:
    return (b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for _ in range(8)) for number in count())


def endless() -> Iterator[bytes]:
    return (b"v" * 8000 for _ in count())


@pytest.mark.parametrize(
    ("first", "more"),
    [
        pytest.param(b"GET /health HTTP/1.1\r\n", lines, id="lines"),
        pytest.param(b"GET /health HTTP/1.1\r\nX-Long: ", endless, id="one line"),
        pytest.param(b"GET /", endless, id="url"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n\r\nGET /", endless, id="second request"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1;", endless, id="chunk extension"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", lines, id="trailers"),
    ],
)
def test_heads_are_bounded(live: Live, first: bytes, more: Any) -> None:
    """In bytes, and with a refusal in OpenAI's shape; what stands around a body counts like a head."""
    with connect(live) as connection:
        sent = pour(connection, first, more())
        assert sent < MUCH, "the server reads on and on"
        if b"\r\n\r\n" not in first:
            status, error = answer(connection)
            assert (status, error["code"]) == (431, "headers_too_large")


@settings(max_examples=20)
@given(st.integers(-3, 3), st.lists(st.integers(0, HEAD_BYTES + 3), max_size=4))
def test_the_bound_on_heads_is_exact(live: Live, excess: int, cuts: list[int]) -> None:
    """However the head is cut on its way."""
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: "
    head = start + b"v" * (HEAD_BYTES - len(start) - 4 + excess) + b"\r\n\r\n"
    with connect(live) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin, end in pairwise([0, *sorted(cuts), len(head)]):
            connection.sendall(head[begin:end])
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 " if excess <= 0 else b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("first", "byte"),
    [
        pytest.param(b"GET /health HTTP/1.1\r\nX-Slow: ", b"v", id="head"),
        pytest.param(b"", b"\n", id="empty lines"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\n", id="after an answer"),
        pytest.param(
            b"POST /admin/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b"x", id="unread body"
        ),
    ],
)
def test_heads_must_come_in_time(live: Live, first: bytes, byte: bytes) -> None:
    with connect(live) as connection:
        assert drip(connection, first, byte) < 4


def test_a_slow_head_is_told(live: Live) -> None:
    with connect(live) as connection:
        connection.sendall(b"GET /health HTT")
        status, error = answer(connection)
    assert (status, error["code"]) == (408, "headers_timeout")
    assert 'kalmagrove_refusals_total{reason="headers_timeout"}' in httpx.get(f"{live.url}/metrics").text


def test_silent_connections_are_closed(live: Live) -> None:
    with connect(live) as connection:
        assert connection.recv(1) == b""


def test_what_is_no_http_is_refused_in_openais_shape(live: Live) -> None:
    with connect(live) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        status, error = answer(connection)
    assert (status, error["code"]) == (400, "invalid_http")


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/chat/completions", "application/json"), ("/admin/kb/import", "application/x-ndjson")],
)
def test_bodies_must_come_in_time(live: Live, path: str, kind: str) -> None:
    """A byte now and then does not keep a request, or the only import there may be, for ever."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 10000\r\n\r\n"
    with connect(live) as connection:
        assert BODY_SECONDS < drip(connection, head.encode(), b" ") < 4
        status, error = answer(connection)
    assert (status, error["code"]) == (408, "body_timeout")


def test_an_import_may_take_as_long_as_it_goes_on(live: Live) -> None:
    """Its bound is a rate; what is slow by any measure but moves is not cut."""

    def facts() -> Iterator[bytes]:
        for number in range(20):
            time.sleep(BODY_SECONDS / 10)
            yield json.dumps({"id": f"f{number}", "text": "word " * 20}).encode() + b"\n"

    headers = {"Content-Type": "application/x-ndjson"}
    done = httpx.post(f"{live.url}/admin/kb/import", content=facts(), headers=headers, timeout=30)
    assert (done.status_code, json.loads(done.text.splitlines()[-1])["done"]) == (200, True)


def test_idle_connections_make_room(live: Live) -> None:
    """However many there are: operations and questions are answered as before."""
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(live)) for _ in range(MAX_CONNECTIONS + SPARE_CONNECTIONS + 20)]
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            assert httpx.get(live.url + path).status_code == 200
        assert idle[0].recv(1) == b""  # the longest idle


def test_a_full_server_says_so_and_answers_probes(live: Live) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            busy = stack.enter_context(connect(live))
            busy.sendall(POST + b"Content-Length: 10\r\n\r\n{")
        refused = httpx.get(f"{live.url}/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
        assert refused.headers["retry-after"]
        for path in ("/health", "/ready", "/metrics"):
            assert httpx.get(live.url + path).status_code == 200


@pytest.fixture(scope="module")
def long_list(live: Live) -> str:
    """The path of an answer that no socket's buffer holds."""
    lines = [json.dumps({"id": f"f{i}", "text": "the same", "metadata": {"x": "y" * 4000}}) for i in range(1000)]
    headers = {"Content-Type": "application/x-ndjson"}
    path = f"{live.url}/admin/kb/import?namespace=long"
    assert httpx.post(path, content="\n".join(lines), headers=headers, timeout=60).status_code == 200
    return "?namespace=long"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        pytest.param("/admin/kb/export", b"", id="stream"),
        pytest.param("/admin/kb/facts", b"", id="one piece"),
        pytest.param("/admin/kb/facts", get("/v1/models"), id="another request behind it"),
        pytest.param("/admin/kb/export", b"\x16\x03\x01\r\n\r\n", id="rubbish behind it"),
    ],
)
def test_who_reads_no_answer_is_dropped(live: Live, long_list: str, path: str, more: bytes) -> None:
    """Its connection does not stay open for ever, nor does its request: what it reads later is not whole."""
    path += long_list + ("&limit=1000" if path.endswith("facts") else "")
    whole = len(httpx.get(live.url + path).content)
    with connect(live) as connection:
        connection.sendall(get(path))
        connection.recv(1)
        connection.sendall(more)
        time.sleep(4 * UNREAD_SECONDS)
        received = 0
        while part := connection.recv(2**20):
            received += len(part)
    assert received < whole
    assert "kalmagrove_http_requests_in_flight 1.0" in httpx.get(f"{live.url}/metrics").text
