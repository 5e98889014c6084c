"""What the drain scenario says of servers that end badly, of real connections that break, and of a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from loadtests import drain
from loadtests.client import FactRecord, Target
from loadtests.drain import Attempt, Round
from loadtests.exchange import DONE, Exchange, exchange
from loadtests.report import Report
from loadtests.scenario import Options
from tests.tiny import tiny_checkpoint

WHOLE = Exchange(200, None, b"data: {}\n\n" + DONE)
FACT = FactRecord("a", "It is so.")
UNDER_WAY = Attempt("stream", 8.0, 12.0, WHOLE)
EDIT = Attempt("edit", 1.0, 2.0, Exchange(200, None, b"{}"), FACT)
TOLD_TO_GO = Attempt("plain", 11.0, 11.1, Exchange(503, "5", b"{}"))


def _verdict(*attempts: Attempt, exit_status: int | None = 0, held: dict[str, str] | None = None) -> Report:
    """Of one round: SIGTERM at 10, the process is gone at 20."""
    one = Round(10.0, 20.0, exit_status, [UNDER_WAY, EDIT, TOLD_TO_GO, *attempts])
    one.missing = drain.missing(one.acknowledged, {FACT.id: FACT.text} if held is None else held)
    report = Report("drain", "stub", "nowhere")
    drain.summarise(report, [one])
    return report


def test_good_verdict() -> None:
    closed = Attempt("plain", 19.8, 19.85, Exchange(failure="ReadError"))
    nobody = Attempt("plain", 19.9, 19.95, Exchange(failure="ConnectError", not_connected=True))
    afterwards = replace(nobody, sent_at=20.1, ended_at=20.2)
    report = _verdict(closed, nobody, afterwards)
    assert report.failures == []
    assert report.figures["requests sent"] == 5
    assert report.figures["accepted"] == report.figures["of them answered whole"] == 2
    assert report.figures["of them refused with Retry-After"] == 1
    assert report.figures["of them not connected"] == 1
    assert report.figures["of them connected and without an answer"] == 1
    assert report.series[drain.EXIT].median == 10_000


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (Attempt("stream", 9, 11, Exchange(200, None, b"data: {}\n\n")), "1 accepted and not answered whole"),
        (
            Attempt("plain", 9, 11, Exchange(200, None, b"{", "RemoteProtocolError")),
            "whole; the most frequent: plain: Rem",
        ),
        (Attempt("stream", 9, 11, Exchange(200, None, b'data: {"error": {}}\n\n' + DONE)), "not answered whole"),
        (Attempt("edit", 9, 11, Exchange(failure="ReadError"), FACT), "1 sent before SIGTERM and not answered"),
        (Attempt("plain", 11, 12, Exchange(503, None, b"")), "1 refused, but not by 503 or 429 with Retry-After"),
        (Attempt("plain", 11, 12, Exchange(500, None, b'{"error": {"message": "bug"}}')), "plain: 500 bug"),
    ],
)
def test_verdicts(attempt: Attempt, reason: str) -> None:
    assert reason in "; ".join(_verdict(attempt).failures)


def test_lost_edits_and_unclean_exits_are_told() -> None:
    assert _verdict(held={}).failures == ["1 acknowledged edits are lost; the first: a"]
    assert _verdict(held={"a": "It is otherwise."}).failures
    assert _verdict(exit_status=None).failures == ["1 exits were not clean; the first: None"]
    unanswered = replace(EDIT, came=Exchange(failure="ReadError"), sent_at=11.0)
    assert Round(10.0, 20.0, 0, [unanswered]).acknowledged == {}


def test_a_server_that_was_idle_shows_nothing() -> None:
    report = Report("drain", "stub", "nowhere")
    drain.summarise(report, [Round(10.0, 20.0, 0, [EDIT, TOLD_TO_GO])])
    assert report.failures == ["nothing was under way at SIGTERM, or on one listener only: this shows nothing"]


def test_of_two_listeners_both_must_have_been_busy() -> None:
    console = Attempt("console", 8.0, 12.0, WHOLE)
    assert _verdict(console).failures == []
    assert "one listener only" in _verdict(replace(console, ended_at=9.0)).failures[0]
    assert _verdict(replace(console, came=Exchange(200, None, b"data: {}\n\n"))).failures


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _answering(answer: Answer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that reads a request's head, answers as it is told and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        yield http


@pytest.mark.parametrize(
    ("sent", "status", "broken"),
    [
        (b"", None, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndata", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata", 200, False),
        (b"HTTP/1.1 503 No\r\nRetry-After: 5\r\nContent-Length: 4\r\n\r\ndata", 503, False),
    ],
)
async def test_what_breaks_off_is_seen(sent: bytes, status: int | None, broken: bool) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()

    async with _answering(answer) as http:
        came = await exchange(http, "POST", "/", {})
    assert (came.status, bool(came.failure)) == (status, broken)
    assert came.unanswered == (status is None)
    assert came.body == (b"data" if sent else b"")
    assert came.retry_after == ("5" if status == 503 else None)


async def test_nobody_there(unused_tcp_port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}", trust_env=False) as http:
        came = await exchange(http, "GET", "/", None)
    assert came.failure
    assert came.not_connected
    assert not came.unanswered


@pytest.mark.slow
@pytest.mark.parametrize("admin_apart", [False, True], ids=["one listener", "two listeners"])
async def test_a_real_server_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, admin_apart: bool) -> None:
    (tmp_path / "models").mkdir()
    tiny_checkpoint(tmp_path / "models", max_position_embeddings=4096)
    monkeypatch.setenv("KALMAGROVE_MODEL", "tiny")
    options = Options(Target(""), 2, facts=16, max_seconds=1.0)
    report = await drain.run(options, tmp_path, lambda *_: None, admin_apart=admin_apart)
    assert report.failures == []
    assert report.figures["rounds"] == 2
    assert report.figures["of them refused with Retry-After"] > 0
    assert report.figures["edits acknowledged"] > 0
    assert report.figures["of them where /admin is"] > 0
    assert json.dumps(report.to_json())
