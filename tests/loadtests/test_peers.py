"""The comparison from end to end against stubs: everyone is asked the same, in turn, in the words he understands."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.client import Target
from loadtests.corpus import make_corpus, pasted
from loadtests.peers.plot import write_plot
from loadtests.peers.run import STREAMS, WARM_UP, plan, run
from loadtests.peers.summary import AGAIN, FIRST, PROMPT, RIGHT, TOKEN, WHOLE, ahead, of, rate
from loadtests.peers.systems import ANSWER_TOKENS, Case, System
from loadtests.peers.tables import print_tables
from loadtests.refusals import RequestError
from loadtests.report import Report
from loadtests.scenario import Options
from tests.loadtests.stub_server import Stub, quiet, running

COUNT = 3
WAVES = 1
CASES = WARM_UP + COUNT + WAVES * sum(STREAMS)


@dataclass
class Stage:
    """KalmaGrove and one peer, stubs both."""

    ours: Stub
    theirs: Stub
    systems: list[System]

    async def measure(self, **options: Any) -> Report:
        target = self.systems[0].target
        return await run(Options(target, **{"count": COUNT, "facts": 80, **options}), self.systems, WAVES, quiet)


@pytest.fixture
def stage() -> Iterator[Stage]:
    ours = Stub(token_seconds=0.0, finds=True, parrot=True)
    theirs = Stub(token_seconds=0.0, plain=True, parrot=True)
    with ExitStack() as stack:
        one, other = (Target(stack.enter_context(running(stub))) for stub in (ours, theirs))
        other = replace(other, extra={"repeat_penalty": 1.0}, endless={"min_tokens": ANSWER_TOKENS})
        systems = [
            System("ours", one, "mounted"),
            System("ships", one, "ships"),
            System("pasted", one, "pasted"),
            System("peer", other),
        ]
        yield Stage(ours, theirs, [replace(system, settle_s=0.0) for system in systems])


async def test_everyone_is_measured_and_compared(stage: Stage) -> None:
    report = await stage.measure()
    assert report.failures == []
    for name in ("ours", "ships", "pasted", "peer"):
        assert {report.series[of(measure, name)].n for measure in (FIRST, AGAIN, TOKEN, WHOLE, rate(1))} == {COUNT}
        assert {report.series[of(rate(streams), name)].n for streams in STREAMS} == {WAVES}
        assert report.estimates[of(RIGHT, name)].value == 100
    assert report.estimates[ahead(FIRST, "peer")].value > 0
    assert ahead(FIRST, "ours") not in report.estimates


async def test_the_same_facts_and_questions_in_each_ones_words(stage: Stage) -> None:
    await stage.measure()
    mounted = [body for body in stage.ours.bodies if "top_k" in body["knowledge"]]
    shipped = [body for body in stage.ours.bodies if set(body["knowledge"]) == {"namespace"}]
    pasted_in = [body for body in stage.ours.bodies if body["knowledge"] == {"enabled": False}]
    assert len(mounted) == len(shipped) == len(pasted_in) == len(stage.theirs.bodies)
    assert _sorted(shipped) == _sorted(mounted)
    assert [body["messages"] for body in pasted_in] != [body["messages"] for body in mounted]
    assert _sorted(pasted_in) == _sorted(stage.theirs.bodies)
    assert {body["messages"][0]["content"] for body in mounted} == {b["messages"][1]["content"] for b in pasted_in}
    texts = {item.fact.text for item in make_corpus(80, 1)}
    for body in pasted_in:
        facts = body["messages"][0]["content"].removeprefix(pasted([])).splitlines()
        assert len(facts) == 8
        assert {fact.removeprefix("- ") for fact in facts} <= texts
    for body in stage.theirs.bodies:
        assert body["repeat_penalty"] == 1.0
        assert "ignore_eos" not in body
        assert body["temperature"] == 0
    endless = [body for body in stage.theirs.bodies if "min_tokens" in body]
    assert len(endless) == len(stage.theirs.bodies) - WARM_UP - COUNT  # all but those that are judged


def _sorted(bodies: list[dict[str, Any]]) -> list[str]:
    """Streams of a wave arrive in any order."""
    return sorted(f"{body['max_tokens']} {body['messages']}" for body in bodies)


async def test_wrong_answers_are_counted(stage: Stage) -> None:
    stage.theirs.parrot = False
    report = await stage.measure()
    assert report.estimates[of(RIGHT, "peer")].value == 0
    assert report.estimates[of(RIGHT, "pasted")].value == 100


async def test_a_server_without_usage_is_measured_all_the_same(stage: Stage) -> None:
    stage.theirs.usage = False
    report = await stage.measure()
    assert report.failures == []
    assert report.series[of(TOKEN, "peer")].n == COUNT
    assert of(PROMPT, "peer") not in report.series


async def test_a_longer_prompt_is_no_comparison(stage: Stage) -> None:
    stage.theirs.prompt_tokens = 31
    report = await stage.measure()
    assert report.failures == ["the same prompts are not as long everywhere: pasted, peer"]


async def test_a_peer_that_fails_is_named(stage: Stage) -> None:
    stage.theirs.break_stream = math.inf
    with pytest.raises(RequestError, match=r"peer: .*the engine died"):
        await stage.measure()


async def test_what_a_peer_breaks_off_is_asked_again_and_told(stage: Stage) -> None:
    stage.theirs.break_stream = 2
    report = await stage.measure()
    assert report.failures == []
    assert report.series[of(FIRST, "peer")].n == COUNT
    assert "2 times a request was broken off" in report.notes["peer"]
    assert "broken off" not in report.notes["ours"]


async def test_what_we_break_off_is_a_failure(stage: Stage) -> None:
    stage.ours.break_stream = 1
    with pytest.raises(RequestError, match=r"ours: .*the engine died"):
        await stage.measure()


async def test_too_few_facts_for_the_questions(stage: Stage) -> None:
    with pytest.raises(RequestError, match=f"{CASES} questions are needed, and 20 facts give"):
        await stage.measure(facts=20)


async def test_time_is_bounded(stage: Stage) -> None:
    report = await stage.measure(max_seconds=0.0)
    assert any(f"0 of {COUNT} measured" in failure for failure in report.failures)


@pytest.mark.parametrize(("count", "waves"), [(1, 0), (5, 2), (2, 3)])
def test_plan_takes_every_case_once(count: int, waves: int) -> None:
    items = make_corpus(count + waves * sum(STREAMS), 1)
    cases = [Case(item, (item.fact,), item) for item in items]
    steps = plan(cases, count, waves)
    assert sorted(len(step) for step in steps) == sorted([1] * count + waves * list(STREAMS))
    assert sorted(case.item.fact.id for step in steps for case in step) == sorted(item.fact.id for item in items)


async def test_tables_and_picture_show_every_system(stage: Stage, tmp_path: Path) -> None:
    report = await stage.measure()
    text = io.StringIO()
    print_tables(report, Console(file=text, width=40))
    rows = [line for line in text.getvalue().splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows if "peer" in row] == ["peer", "peer"]
    assert len({row.count("|") for row in rows[:5]}) == 1
    write_plot(report, tmp_path / "new" / "peers.png")
    assert (tmp_path / "new" / "peers.png").read_bytes().startswith(b"\x89PNG")
