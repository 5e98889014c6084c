"""Any schedule of submits, departures, edits and deletes: right tokens, and every page comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine.paged.embedded import EmbeddedEngine
from server.engine.protocol import (
    FactTokens,
    GenerationRequest,
)
from tests.engine.harness import FACTS, World, answer, settled, stream


@dataclass(frozen=True)
class Submit:
    prompt: int
    facts: tuple[int, ...]
    max_tokens: int
    seed: int
    leave_after: int | None
    """Chunks read before the client leaves; 0: at once."""


@dataclass(frozen=True)
class Encode:
    facts: tuple[int, ...]


@dataclass(frozen=True)
class Forget:
    facts: tuple[int, ...]


@dataclass(frozen=True)
class Pause:
    milliseconds: int


@dataclass(frozen=True)
class Settle:
    pass


some_facts = st.lists(st.integers(0, 4), max_size=3, unique=True).map(tuple)
events = st.one_of(
    st.builds(
        Submit,
        prompt=st.sampled_from([1, 15, 16, 60]),
        facts=some_facts,
        max_tokens=st.sampled_from([1, 4, 40]),
        seed=st.integers(0, 1),
        leave_after=st.one_of(st.none(), st.none(), st.integers(0, 6)),
    ),
    st.builds(Encode, some_facts),
    st.builds(Forget, some_facts),
    st.builds(Pause, st.integers(0, 8)),
    st.just(Settle()),
)


class Schedule:
    """Plays events against one engine; whoever stayed to the end must have got the right tokens."""

    def __init__(self, world: World, engine: EmbeddedEngine) -> None:
        self._world = world
        self._engine = engine
        self._tasks: list[asyncio.Task[None]] = []
        self.served: list[tuple[Submit, tuple[int, ...]]] = []

    async def play(self, script: Sequence[object]) -> None:
        for event in [*script, Settle()]:
            match event:
                case Submit():
                    self._tasks.append(asyncio.create_task(self._client(event)))
                case Encode():
                    facts = [self._fact(i) for i in event.facts]
                    self._tasks.append(asyncio.create_task(self._engine.encode(facts)))
                case Forget():
                    self._engine.forget([self._fact(i).key for i in event.facts])
                case Pause():
                    await asyncio.sleep(event.milliseconds / 1000)
                case Settle():
                    await asyncio.wait_for(asyncio.gather(*self._tasks), 30)
                    await settled(self._engine)

    def _fact(self, index: int) -> FactTokens:
        return self._world.fact(FACTS[index])

    async def _client(self, event: Submit) -> None:
        source = stream(self._engine, asked_by(self._world, event))
        tokens: list[int] = []
        if event.leave_after != 0:
            count = 0
            async for chunk in source:
                tokens += chunk.token_ids
                count += 1
                if count == event.leave_after:
                    break
            else:
                self.served.append((event, tuple(tokens)))
        await source.aclose()


def asked_by(world: World, event: Submit) -> GenerationRequest:
    texts = [FACTS[i] for i in event.facts]
    return world.request(
        "p" * event.prompt, *texts, max_tokens=event.max_tokens, temperature=float(event.seed), seed=event.seed
    )


@pytest.fixture(scope="module")
def known() -> dict[tuple[object, ...], tuple[int, ...]]:
    """Right answers, computed alone on a roomy engine the first time they are needed."""
    return {}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    script=st.lists(events, min_size=3, max_size=25),
    pages=st.sampled_from([23, 26, 40, 200]),
    step=st.sampled_from([1, 5, 16, 256]),
)
def test_any_schedule(
    world: World, known: dict[tuple[object, ...], tuple[int, ...]], script: list[object], pages: int, step: int
) -> None:
    async def play() -> list[tuple[Submit, tuple[int, ...]]]:
        async with world.engine(pages=pages, step_tokens=step, busy_step_tokens=7, max_running=6) as engine:
            schedule = Schedule(world, engine)
            await schedule.play(script)
            engine.forget([world.fact(text).key for text in FACTS])
            await engine.audit([])
            assert (await settled(engine)).pages_knowledge == -(-len(world.prompt.preamble) // 16)
        return schedule.served

    async def alone(event: Submit) -> tuple[int, ...]:
        async with world.engine() as engine:
            return (await answer(engine, asked_by(world, event))).tokens

    for event, tokens in asyncio.run(play()):
        key = (event.prompt, event.facts, event.max_tokens, event.seed)
        if key not in known:
            known[key] = asyncio.run(alone(event))
        assert tokens == known[key]
