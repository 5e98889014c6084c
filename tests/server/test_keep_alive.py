"""How long a connection is kept for its next request."""

from __future__ import annotations

from http.client import HTTPResponse
from pathlib import Path

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.settings import Settings
from tests.server.live import connect, get, listening
from tests.server.support import build_services


def test_longer_than_most_proxies_keep_theirs() -> None:
    assert Settings().keep_alive_s == 75


def test_longer_than_a_head_may_take(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    """A second connection, which says nothing, measures the time: it is closed first, though it came later."""
    with listening(build_services(tmp_path, tiny, encoder), header_timeout_s=0.2, keep_alive_s=60) as live:
        with connect(live) as kept:
            for _ in range(2):
                kept.sendall(get("/health"))
                answer = HTTPResponse(kept)
                answer.begin()
                assert answer.status == 200
                answer.read()
                with connect(live) as silent:
                    assert silent.recv(1) == b""
        with connect(live) as begun:
            begun.sendall(get("/health"))
            answer = HTTPResponse(begun)
            answer.begin()
            answer.read()
            begun.sendall(b"GET")  # from now on it is the head that is waited for
            assert begun.recv(20).startswith(b"HTTP/1.1 408")


def test_no_longer_than_the_setting(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    with listening(build_services(tmp_path, tiny, encoder), keep_alive_s=0.05) as live, connect(live) as kept:
        kept.sendall(get("/health"))
        answer = HTTPResponse(kept)
        answer.begin()
        answer.read()
        assert kept.recv(1) == b""
