"""The soak scenario against a stub, sound and leaking, and slopes of series whose growth is known."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import soak
from loadtests.client import Target
from loadtests.report import Report
from loadtests.resources import HANDLES, PAGES, RSS, THREADS, Samples, read_process, slope
from loadtests.scenario import Options
from tests.loadtests.stub_server import Stub, quiet, running


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def target(stub: Stub) -> Iterator[Target]:
    with running(stub) as url:
        yield Target(url, "client-key", "admin-key", pid=os.getpid())


async def test_soak(target: Target, stub: Stub) -> None:
    report = await soak.run(Options(target, 1, facts=16, max_seconds=2), quiet)
    assert not report.failures
    assert all(report.series[f"{kind} (ms)"].n > 1 for kind in soak.WORKERS)
    assert {RSS, HANDLES, THREADS, PAGES} <= report.series.keys()
    assert report.figures[f"{RSS} per hour"] == 0
    assert len(report.samples["seconds"]) == len(report.samples[THREADS]) > 5
    assert ("/metrics", "Bearer admin-key") in stub.keys_seen


async def test_what_clients_that_left_still_hold_is_told(
    target: Target, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "IDLE_TIMEOUT_S", 0.5)
    stub.leak = True
    report = await soak.run(Options(target, 1, facts=16, max_seconds=2), quiet)
    failures = "; ".join(report.failures)
    assert "held when the load was over: kalmagrove_requests_running" in failures
    assert f"{PAGES}: grew by at least" in failures


async def test_refusals_are_told(target: Target, stub: Stub) -> None:
    stub.refuse = True
    report = await soak.run(Options(target, 1, facts=16, max_seconds=1), quiet)
    assert any("requests failed" in failure and "429" in failure for failure in report.failures)


@given(st.floats(-50, 50), st.integers(0, 2**32))
def test_slope_is_found_within_its_interval(per_hour: float, seed: int) -> None:
    noise = random.Random(seed)
    seconds = [10.0 * i for i in range(60)]
    values = [1000 + per_hour * at / 3600 + noise.uniform(-1e-3, 1e-3) for at in seconds]
    found = slope(seconds, values)
    assert found is not None
    assert found.low <= found.per_hour <= found.high
    assert found.per_hour == pytest.approx(per_hour, abs=0.05)


def test_slope_is_not_moved_by_an_outlier() -> None:
    values = [5.0] * 40
    values[20] = 5000.0
    found = slope(list(range(40)), values)
    assert found is not None
    assert found.per_hour == 0


def test_no_slope_of_few_values() -> None:
    assert slope([0, 1, 2, 3], [1, 2, 3, 4]) is None


def _growing(mib_per_hour: float, minutes: int) -> Report:
    seconds = [float(s) for s in range(0, minutes * 60, 10)]
    samples = Samples(seconds, {RSS: [1000 + mib_per_hour * at / 3600 for at in seconds]})
    report = Report("soak", "stub", "nowhere")
    soak.summarise_growth(report, samples)
    return report


def test_a_leak_is_told_when_it_amounts_to_something() -> None:
    assert [failure.split(":")[0] for failure in _growing(100, 30).failures] == [RSS]
    assert not _growing(100, 5).failures
    assert not _growing(-100, 30).failures


def test_growth_while_it_settles_does_not_count() -> None:
    seconds = [float(s) for s in range(0, 1800, 10)]
    report = Report("soak", "stub", "nowhere")
    soak.summarise_growth(report, Samples(seconds, {RSS: [1000 + min(at, 400) for at in seconds]}))
    assert not report.failures
    assert report.figures[f"{RSS} per hour"] == 0


def test_threads_of_this_process() -> None:
    assert read_process(Path("/proc/self"))[THREADS] >= 1
