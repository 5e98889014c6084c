"""The overload scenario against a stub with few places, and what it says of servers that take it badly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests import overload
from loadtests.answer import Answer
from loadtests.client import Target
from loadtests.overload import Outcome
from loadtests.refusals import Refused, RequestError
from loadtests.report import Report
from loadtests.scenario import Options
from tests.loadtests.stub_server import Stub, quiet, running


@pytest.fixture
def stub() -> Stub:
    return Stub(places=4, token_seconds=0.015)


@pytest.fixture
def target(stub: Stub) -> Iterator[Target]:
    with running(stub) as url:
        yield Target(url, "client-key", "admin-key")


async def test_the_rest_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "BOUND", 1000.0)  # stub and clients share this process, and its time
    report = await overload.run(Options(target, 1, facts=16, max_seconds=1.0), quiet)
    assert not report.failures
    assert 4 <= report.figures["requests held at once"] < overload.BURST
    assert report.figures["of them refused, %"] > 50
    assert report.figures["requests offered / answered by a full server"] >= overload.LEAST_FACTOR
    assert report.series[overload.REFUSED].n > report.series[overload.OVERLOADED].n > 4


async def test_refusals_without_retry_after_are_a_failure(target: Target, stub: Stub) -> None:
    stub.retry_after = False
    report = await overload.run(Options(target, 1, facts=16, max_seconds=1.0), quiet)
    assert any("without Retry-After" in failure for failure in report.failures)


async def test_a_server_that_only_refuses_cannot_be_measured(target: Target, stub: Stub) -> None:
    stub.refuse = True
    with pytest.raises(RequestError, match="no answer"):
        await overload.run(Options(target, 1, facts=16, max_seconds=0.5), quiet)


def _answered(ttft: float) -> Outcome:
    return Outcome(ttft, Answer("text", (ttft,), 1, 1, 1, 1.0, ()))


def _refused(retry_after: str | None = "1") -> Outcome:
    return Outcome(0.01, refusal=Refused("chat: 429 full", retry_after))


def _verdict(full: list[Outcome], overloaded: list[Outcome], after: Outcome) -> list[str]:
    report = Report("overload", "stub", "nowhere")
    overload.summarise(report, full, overloaded, after)
    return report.failures


@pytest.mark.parametrize(
    ("overloaded", "after", "reason"),
    [
        ([_answered(2.1), _refused()], _answered(0.1), "2.1 times"),
        ([_answered(1.0), Outcome(150, failure="hung")], _answered(0.1), "1 requests failed; 1 of them: hung"),
        ([_answered(1.0)], _answered(0.1), "refused with 429"),
        ([_refused()], _answered(0.1), "TTFT of accepted"),
        ([_answered(1.0), _refused()], _refused(), "still refused"),
    ],
)
def test_verdicts(overloaded: list[Outcome], after: Outcome, reason: str) -> None:
    assert reason in "; ".join(_verdict([_answered(1.0)], overloaded, after))


def test_good_verdict() -> None:
    assert _verdict([_answered(1.0)], [_answered(1.9), _refused()], _answered(0.1)) == []
