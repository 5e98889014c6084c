"""Streams beside what is measured: they go on until the block ends, and a server that fails is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from loadtests import streaming
from loadtests.client import Target
from loadtests.refusals import RequestError
from tests.loadtests.stub_server import Stub, running


@contextmanager
def served(stub: Stub) -> Iterator[Target]:
    with running(stub) as url:
        yield Target(url, "client-key", "admin-key")


def test_streams_go_on_until_the_end() -> None:
    with mock.patch.object(streaming, "temporary_server", return_value=served(Stub())):
        with streaming.beside_streams(Path()) as streams:
            before = streams.pieces
            deadline = time.monotonic() + 20
            while streams.pieces < before + 50:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert streams.failure is None
        ended = streams.pieces
        time.sleep(0.05)
        assert streams.pieces == ended


def test_a_server_that_answers_no_stream_is_told() -> None:
    @contextmanager
    def nobody(_: Path) -> Iterator[Target]:
        yield Target("http://127.0.0.1:9")

    with (
        mock.patch.object(streaming, "temporary_server", nobody),
        pytest.raises(RequestError, match="Connect"),
        streaming.beside_streams(Path()),
    ):
        pass
