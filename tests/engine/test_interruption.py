"""Edits and short computations in the midst of a step: they come through, and the step still ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from server.engine.paged import interruption
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.paged.interruption import Interruption
from server.engine.protocol import EngineUnavailable
from tests.engine.harness import FACTS, World, answer, answers

EDITS = 50
"""Enough that some arrive in the middle of a step, however they fall."""


def never() -> bool:
    return False


def test_a_step_is_left_in_peace_once_the_budget_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now)
    jobs = 0

    def slow_job() -> bool:
        nonlocal now, jobs
        now += interruption.BUDGET_SECONDS / 2
        jobs += 1
        return True

    cut_in = Interruption(lambda: None, slow_job, never)
    for _ in range(10):
        cut_in()
    assert jobs == 2


def test_looking_for_work_costs_nothing_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1000))
    monkeypatch.setattr(interruption.time, "monotonic", lambda: next(times))
    looked = 0

    def look() -> None:
        nonlocal looked
        looked += 1

    cut_in = Interruption(look, never, never)
    for _ in range(30):
        cut_in()
    assert looked == 30


async def test_run_computes_on_the_engines_thread_and_returns_or_raises(world: World) -> None:
    async with world.engine() as engine:
        assert await engine.run(lambda: threading.current_thread().name) == "kalmagrove-engine"
        with pytest.raises(ZeroDivisionError):
            await engine.run(lambda: 1 // 0)
        assert engine.healthy()
    with pytest.raises(EngineUnavailable):
        await engine.run(lambda: None)


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How deep in one another the model's passes were when each began."""
    from kan.model import KANModel

    depths: list[int] = []
    depth = 0
    plain = KANModel.forward

    def counted(self: KANModel, *arguments: object) -> object:
        nonlocal depth
        depth += 1
        depths.append(depth)
        try:
            return plain(self, *arguments)  # type: ignore[arg-type]
        finally:
            depth -= 1

    monkeypatch.setattr(KANModel, "forward", counted)
    return depths


async def _edits_under_streams(engine: EmbeddedEngine, world: World, facts: Callable[[int], list[str]]) -> None:
    asked = [world.request(f"question {i}", *FACTS[:2], max_tokens=200, seed=i, temperature=1.0) for i in range(3)]
    streams = asyncio.create_task(answers(engine, asked))
    for number in range(EDITS):
        await asyncio.sleep(0.004)
        await engine.encode([world.fact(text) for text in facts(number)])
    observed = await streams
    assert [one.tokens for one in observed] == [(await answer(engine, one)).tokens for one in asked]


async def test_a_small_edit_cuts_into_a_step_and_changes_no_token(world: World, forward_passes: list[int]) -> None:
    async with world.engine() as engine:
        await _edits_under_streams(engine, world, lambda number: [f"Stop {number} has a bench."])
        await engine.audit()
    assert 2 in forward_passes


async def test_a_large_edit_waits_its_turn(world: World, forward_passes: list[int]) -> None:
    async with world.engine() as engine:
        await _edits_under_streams(engine, world, lambda n: [f"Stop {n}.{i} has a bench." for i in range(8)])
        await engine.audit()
    # What cuts in is at most the last, small rest of a batch.
    assert forward_passes.count(2) <= EDITS
