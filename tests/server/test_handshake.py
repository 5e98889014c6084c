"""Clients of a TLS port that do not speak TLS, or nothing at all: they take no more than others may."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.protocol import SPARE_CONNECTIONS
from tests.server.live import Live, connect, get, listening
from tests.server.support import build_services

MAX_CONNECTIONS = 4
PATIENCE_SECONDS = 2.0
"""Long enough for those who mean well on a machine that is busy."""
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a TLS client begins."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a certificate of localhost, and its key in the same file."""
    directory, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    return directory


@pytest.fixture(scope="module")
def trusting(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(directory / "authority.pem"))


@pytest.fixture(scope="module")
def live(directory: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    """Its end waits for nobody who is silent."""
    bounds = {"max_connections": MAX_CONNECTIONS, "header_timeout_s": PATIENCE_SECONDS}
    services = build_services(directory, tiny, encoder)
    with listening(services, ssl_certfile=directory / "server.pem", **bounds) as live, connect(live):
        yield live


def asked(live: Live, trusting: ssl.SSLContext, path: str = "/health") -> int:
    return httpx.get(live.url.replace("http:", "https:") + path, verify=trusting).status_code


def received(connection: socket.socket) -> bytes:
    """Until it is closed."""
    data = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            data += part
    return data


def test_silent_clients_make_room(live: Live, trusting: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        for first in (b"", HELLO):
            silent = [stack.enter_context(connect(live)) for _ in range(MAX_CONNECTIONS + SPARE_CONNECTIONS + 20)]
            for connection in silent:
                with suppress(OSError):
                    connection.sendall(first)
            for path in ("/health", "/ready", "/metrics", "/v1/models"):
                assert asked(live, trusting, path) == 200
            assert received(silent[0]) == b""  # the longest idle


@pytest.mark.parametrize("first", [b"", HELLO], ids=["nothing", "a beginning"])
def test_silent_clients_are_closed_in_time(live: Live, first: bytes) -> None:
    """Of one that is not, pytest's own timeout tells."""
    with connect(live) as connection:
        connection.sendall(first)
        assert received(connection) == b""


@pytest.mark.parametrize("said", [get("/health"), os.urandom(3000), HELLO * 100], ids=["http", "rubbish", "hellos"])
def test_what_is_no_tls_is_closed(live: Live, trusting: ssl.SSLContext, said: bytes) -> None:
    with connect(live) as connection:
        connection.sendall(said)
        assert b"HTTP" not in received(connection)
    assert asked(live, trusting) == 200


def test_what_comes_with_the_end_of_the_handshake_is_read(live: Live, trusting: ssl.SSLContext) -> None:
    """A request in the same packet, and one after the other on one connection."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with connect(live) as connection:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(2**16))
        for _ in range(2):
            client.write(get("/health"))
            connection.sendall(outgoing.read())
            answer = b""
            while b"}" not in answer:
                with suppress(ssl.SSLWantReadError):
                    answer += client.read(2**16)
                    continue
                incoming.write(connection.recv(2**16))
            assert answer.startswith(b"HTTP/1.1 200")


def test_places_are_given_back(live: Live, trusting: ssl.SSLContext) -> None:
    for _ in range(2 * (MAX_CONNECTIONS + SPARE_CONNECTIONS)):
        with connect(live) as connection:
            connection.sendall(HELLO)
    with httpx.Client(verify=trusting) as client:
        for _ in range(3):
            url = live.url.replace("http:", "https:")
            assert client.post(f"{url}/tokenize", json={"prompt": "a " * 1000}).json()["count"] > 1000
