"""Every scenario from end to end against a stub server, and what it says of servers that misbehave."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import pytest

from loadtests import cold, edit, form, phi, recency, replicas, throughput, ttft
from loadtests.answer import Answer, MountedReport
from loadtests.client import Target
from loadtests.refusals import RequestError
from loadtests.report import Report
from loadtests.scenario import Options
from tests.loadtests.stub_server import Stub, quiet, running


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def target(stub: Stub) -> Iterator[Target]:
    with running(stub) as url:
        yield Target(url, "client-key", "admin-key")


def _options(target: Target, count: int = 6, max_seconds: float = 60.0) -> Options:
    return Options(target, count=count, facts=40, max_seconds=max_seconds)


async def test_ttft(target: Target) -> None:
    report = await ttft.run(_options(target), quiet)
    assert not report.failures
    assert report.series[ttft.MOUNTED].n == report.series[ttft.PASTED].n == 6
    assert report.series["retrieval (ms)"].median == 0.7
    assert report.figures["TTFT ratio of medians, prompt / mounted"] > 0


async def test_ttft_refuses_a_run_that_mounted_fewer_facts(target: Target) -> None:
    report = await ttft.run(Options(target, count=3, facts=4), quiet)
    assert report.failures == ["3 answers did not mount 8 facts"]


async def test_cold(target: Target) -> None:
    report = await cold.run(1.0, _options(target), quiet)
    assert not report.failures
    assert report.series["TTFT, cold (ms)"].n == report.series["TTFT, warm (ms)"].n == 6
    assert report.figures["facts"] == 40


async def test_form(target: Target) -> None:
    report = await form.run(_options(target, count=3), quiet)
    assert not report.failures
    assert report.series[form.WITH].n == report.series[form.WITHOUT].n == 3
    assert report.figures[form.RATIO] > 0


async def test_phi_asks_both_servers_alike(target: Target, stub: Stub) -> None:
    other = Stub()
    with running(other) as url:
        report = await phi.run(_options(target, count=5), Target(url, "client-key", "admin-key"), quiet)
    assert not report.failures
    assert report.series[phi.WITH].n == report.series[phi.WITHOUT].n == 5
    assert stub.requests == other.requests > 5
    assert report.figures["median of the ratios, question by question"] > 0


async def test_phi_refuses_a_run_that_mounted_fewer_facts(target: Target) -> None:
    report = await phi.run(Options(target, count=2, facts=4), target, quiet)
    assert report.failures == ["4 answers did not mount 8 facts"]


async def test_edit(target: Target, stub: Stub) -> None:
    report = await edit.run(_options(target), quiet)
    assert not report.failures
    assert report.series["edit acknowledged, idle (ms)"].n == 6
    assert report.series["edit acknowledged, under 4 streams (ms)"].n == 6
    assert report.figures["pieces streamed meanwhile, per second"] > 0
    assert stub.requests >= 4
    assert stub.keys_seen == {
        ("/admin/kb/facts", "Bearer admin-key"),
        ("/v1/chat/completions", "Bearer client-key"),
    }


async def test_edit_tells_of_a_stream_that_failed(target: Target, stub: Stub) -> None:
    stub.break_stream = math.inf
    with pytest.raises(RequestError, match="the engine died"):
        await edit.run(_options(target), quiet)


async def test_recency(target: Target) -> None:
    report = await recency.run(_options(target), quiet)
    assert not report.failures
    assert report.figures["stale answers"] == 0


async def test_recency_catches_a_server_that_lags(target: Target, stub: Stub) -> None:
    stub.lag = True
    report = await recency.run(_options(target), quiet)
    assert report.figures["stale answers"] == 6
    assert report.failures


async def test_throughput(target: Target) -> None:
    report = await throughput.run(_options(target, count=20), quiet)
    assert not report.failures
    assert report.series["TTFT, 16 streams (ms)"].n == 32
    assert report.series["tokens per second, 1 stream"].n == 5
    assert report.figures["aggregate throughput, 16 streams / 1"] > 1


async def test_throughput_tells_a_refusal(target: Target, stub: Stub) -> None:
    stub.refuse = True
    with pytest.raises(RequestError, match="429 the queue is full"):
        await throughput.run(_options(target), quiet)


async def test_time_is_bounded(target: Target) -> None:
    report = await asyncio.wait_for(ttft.run(_options(target, count=100_000, max_seconds=0.5), quiet), 30)
    assert any("of 100000 measured" in failure for failure in report.failures)


async def test_no_server() -> None:
    with pytest.raises(RequestError, match="ConnectError"):
        await ttft.run(_options(Target("http://127.0.0.1:9")), quiet)


def _answer(version: int | None, *facts: MountedReport) -> Answer:
    return Answer("text", (0.1,), 1, 1, version, 1.0, facts)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_answer(None), "snapshot None"),
        (_answer(6, MountedReport(recency.EDITED, 7, 0.9, "new")), "snapshot 6"),
        (_answer(7, MountedReport("another", 7, 0.9, "new")), "not mounted"),
        (_answer(7, MountedReport(recency.EDITED, 6, 0.9, "new")), "has version 6"),
        (_answer(7, MountedReport(recency.EDITED, 7, 0.9, "old")), "another text"),
    ],
)
def test_stale(answer: Answer, reason: str) -> None:
    assert reason in str(recency.stale(7, "new", answer))


def test_not_stale() -> None:
    assert recency.stale(7, "new", _answer(8, MountedReport(recency.EDITED, 7, 0.9, "new"))) is None


def test_reports_are_of_their_scenario(target: Target) -> None:
    report: Report = asyncio.run(recency.run(_options(target, count=1), quiet))
    assert (report.scenario, report.model, report.server) == ("recency", "stub", target.url)


async def test_replicas(target: Target) -> None:
    report = await replicas.measure(_options(target), [target, target, target], quiet)
    assert not report.failures
    assert {series.n for series in report.series.values()} == {6}
    assert report.figures == {"stale answers to searches that name the version": 0}


async def test_replicas_tell_of_a_server_that_is_behind(target: Target) -> None:
    behind = Stub(lag=True)
    with running(behind) as url:
        report = await replicas.measure(_options(target, count=2), [Target(url, "client-key", "admin-key")] * 2, quiet)
    assert report.figures == {"stale answers to searches that name the version": 2}
    assert len(report.failures) == 1
