"""What the engine lives through: too few pages, clients that leave, deadlines, crowds, failing steps, bad disks."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kan.model import KANModel
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.protocol import (
    DeadlineExceeded,
    EngineUnavailable,
    GenerationRequest,
)
from tests.engine.harness import FACTS, World, answer, answers, one_by_one, settled, stream, until

SMALL_POOL = 26
"""Preamble 4, reserve 3, and not much more than the largest request below needs."""


def crowd(world: World) -> list[GenerationRequest]:
    """More than a small pool holds at once, each small enough to fit alone."""
    return [
        world.request(
            f"question {i} " * (1 + i % 4),
            *FACTS[i % 3 : i % 3 + i % 4],
            max_tokens=40 + 5 * i,
            temperature=float(i % 2),
            seed=i,
            presence_penalty=0.3 * (i % 3),
            logprobs=1,
        )
        for i in range(12)
    ]


async def test_a_minimal_pool_gives_the_same_tokens_only_later(world: World) -> None:
    async with world.engine() as engine:
        expected = await one_by_one(engine, crowd(world))
    async with world.engine(pages=SMALL_POOL) as engine:
        observed = await answers(engine, crowd(world))
        assert engine.stats().preemptions > 0, "the pool was not small enough to test anything"
        await settled(engine)
    assert [one.tokens for one in observed] == [one.tokens for one in expected]
    assert [one.text for one in observed] == [one.text for one in expected]
    for one, other in zip(observed, expected, strict=True):
        assert [x.logprob for x in one.logprobs] == pytest.approx([x.logprob for x in other.logprobs], abs=1e-5)
        assert one.attention == pytest.approx(other.attention, abs=0.2)


async def test_prompt_logprobs_survive_preemption(world: World) -> None:
    """Also of a prompt that was half computed when its pages were taken."""
    asked = [world.request("long prompt " * 8, max_tokens=60, prompt_logprobs=1, seed=i) for i in range(4)]
    async with world.engine(pages=SMALL_POOL, step_tokens=16, busy_step_tokens=40) as engine:
        observed = await answers(engine, asked)
        assert engine.stats().preemptions > 0
    for one in observed:
        assert one.prompt_logprobs is not None
        assert [entry and entry.token_id for entry in one.prompt_logprobs] == [None, *asked[0].prompt[1:]]


async def test_edits_without_end_do_not_starve_the_last_generation(world: World) -> None:
    """A pool in which one request only just fits, and facts that never stop coming."""
    asked = world.request("a", max_tokens=16 * 9 - 1 - 0, temperature=1.0, seed=1)
    async with world.engine() as engine:
        expected = await answer(engine, asked)
    async with world.engine(pages=4 + 3 + 9, busy_step_tokens=40) as engine:
        numbers = iter(range(10**6))

        async def edit() -> None:
            while not running.done():
                await engine.encode([world.fact(f"Stop number {next(numbers)} has a shelter and a bench.")])

        running = asyncio.create_task(answer(engine, asked))
        edits = [asyncio.create_task(edit()) for _ in range(4)]
        observed = await asyncio.wait_for(running, 30)
        await asyncio.gather(*edits)
        assert observed.tokens == expected.tokens
        assert engine.stats().facts_encoded > 10


async def test_generations_never_take_the_pages_kept_for_an_edit(world: World) -> None:
    async with world.engine(pages=SMALL_POOL) as engine:
        least = SMALL_POOL

        def look() -> None:
            nonlocal least
            least = min(least, engine.stats().pages_free)

        asked = [world.request(f"{i}", max_tokens=100) for i in range(6)]
        await asyncio.gather(*(answer(engine, request, look) for request in asked))
        assert engine.stats().preemptions > 0
        assert least == 3


async def test_edits_get_through_while_generations_fill_the_pool(world: World) -> None:
    async with world.engine(pages=SMALL_POOL) as engine:
        streams = [asyncio.create_task(answer(engine, request)) for request in crowd(world)]
        await until(lambda: engine.stats().preemptions > 0, "a full pool")
        await asyncio.wait_for(engine.encode([world.fact("An edit in the middle of all this.")]), 5)
        assert any(not task.done() for task in streams), "the edit waited for everybody"
        await asyncio.gather(*streams)


@dataclass(frozen=True)
class Stage:
    """Where a request is when its client leaves."""

    name: str
    reached: Callable[[EmbeddedEngine], bool]
    others_first: bool = False

    def __str__(self) -> str:
        return self.name


STAGES = (
    Stage("just submitted", lambda engine: True),
    Stage("queued", lambda engine: engine.stats().waiting == 1, others_first=True),
    Stage("prefilling", lambda engine: engine.stats().pages_context > 0),
    Stage("decoding", lambda engine: engine.stats().generated_tokens > 3),
)


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("how", ["aclose", "cancel"])
async def test_a_client_that_leaves_takes_its_pages_along(world: World, stage: Stage, how: str) -> None:
    asked = world.request("long prompt " * 30, *FACTS[:2], max_tokens=500)
    bystander = world.request("Say", FACTS[0], max_tokens=80, temperature=1.0, seed=1)
    async with world.engine(step_tokens=4, max_running=1) as engine:
        expected = await answer(engine, bystander)
        await engine.encode([world.fact(text) for text in FACTS[:2]])
    async with world.engine(step_tokens=4, max_running=1) as engine:
        await engine.encode([world.fact(text) for text in FACTS[:2]])
        before = await settled(engine)
        if stage.others_first:
            other = asyncio.create_task(answer(engine, bystander))
            await until(lambda: engine.stats().running == 1, "the bystander's start")
        source = stream(engine, asked)
        reader = asyncio.ensure_future(anext(source)) if how == "cancel" and stage.name != "decoding" else None
        await until(lambda: stage.reached(engine), stage.name)
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        await source.aclose()
        await source.aclose()
        if not stage.others_first:
            other = asyncio.create_task(answer(engine, bystander))
        assert (await other).tokens == expected.tokens
        after = await settled(engine)
        assert after.pages_knowledge == before.pages_knowledge
        assert after.cancellations == 1
        assert after.generated_tokens < 80 + 500
        with pytest.raises(StopAsyncIteration):
            await anext(source)


async def test_leaving_after_the_last_token_is_no_cancellation(world: World) -> None:
    async with world.engine() as engine:
        source = stream(engine, world.request("a", max_tokens=3))
        chunks = [chunk async for chunk in source]
        await source.aclose()
        assert chunks[-1].finish_reason == "length"
        assert (await settled(engine)).cancellations == 0
        unread = stream(engine, world.request("a", max_tokens=3))
        await until(lambda: engine.stats().generated_tokens == 6, "the unread answer")
        await unread.aclose()
        await settled(engine)


@pytest.mark.parametrize("seconds", [-1.0, 0.15])
async def test_deadlines_end_requests_wherever_they_are(world: World, seconds: float) -> None:
    async with world.engine(max_running=1) as engine:
        deadline = time.monotonic() + seconds
        late = [
            asyncio.create_task(answer(engine, world.request(f"{i}", max_tokens=900, deadline=deadline)))
            for i in range(3)
        ]
        patient = asyncio.create_task(answer(engine, world.request("patient", max_tokens=50)))
        for task in late:
            with pytest.raises(DeadlineExceeded):
                await task
        assert len((await patient).tokens) == 50
        assert (await settled(engine)).pages_context == 0


async def test_a_deadline_ends_a_wait_for_facts(world: World) -> None:
    """Facts evicted, pages held by others: the request is neither running nor finished."""
    async with world.engine(pages=SMALL_POOL, max_running=4) as engine:
        holder = asyncio.create_task(answer(engine, world.request("a", *FACTS[:2], max_tokens=180)))
        await until(lambda: engine.stats().running == 1, "the holder's start")
        blocked = world.request("b" * 20, *FACTS[2:5], max_tokens=100, deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await answer(engine, blocked)
        assert len((await holder).tokens) == 180


async def test_a_failing_step_answers_everyone_and_the_engine_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [world.request(f"question {i}", *FACTS[:2], max_tokens=30) for i in range(4)]
    forward, failing = KANModel.forward, threading.Event()

    def fragile(model: KANModel, *args: Any) -> Any:
        if failing.is_set():
            failing.clear()
            raise RuntimeError("the accelerator hiccuped")
        return forward(model, *args)

    monkeypatch.setattr(KANModel, "forward", fragile)
    async with world.engine() as engine:
        expected = await answers(engine, asked)
        tasks = [asyncio.create_task(answer(engine, request)) for request in asked]
        await until(lambda: engine.stats().running == 4, "four running streams")
        failing.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(isinstance(outcome, EngineUnavailable) for outcome in outcomes), outcomes
        assert [one.tokens for one in await answers(engine, asked)] == [one.tokens for one in expected]


async def test_a_dead_engine_says_so_and_leaves_nobody_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that arrive while the last step is failing are answered too."""
    async with world.engine() as engine:
        entered, release = threading.Event(), threading.Event()

        def broken(model: KANModel, *args: Any) -> Any:
            entered.set()
            release.wait(10)
            raise RuntimeError("the memory is gone")

        monkeypatch.setattr(KANModel, "forward", broken)
        tasks: list[asyncio.Future[Any]] = []
        for _ in range(6):
            entered.clear()
            release.clear()
            try:
                tasks.append(asyncio.ensure_future(answer(engine, world.request("a"))))
                await asyncio.sleep(0)
                if not tasks[-1].done():
                    await asyncio.to_thread(entered.wait, 1)
                tasks.append(asyncio.ensure_future(answer(engine, world.request("b"))))
                tasks.append(asyncio.ensure_future(engine.encode([world.fact(FACTS[0])])))
                await asyncio.sleep(0.01)
            finally:
                release.set()
            await asyncio.sleep(0.05)
        done, pending = await asyncio.wait(tasks, timeout=5)
        for task in pending:
            task.cancel()
        assert not pending, "somebody waits for ever"
        assert {type(task.exception()) for task in done} == {EngineUnavailable}
        assert not engine.healthy()


async def test_a_hanging_step_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, release = KANModel.forward, threading.Event()

    def hanging(model: KANModel, *args: Any) -> Any:
        release.wait(10)
        return forward(model, *args)

    async with world.engine(stall_seconds=0.1) as engine:
        monkeypatch.setattr(KANModel, "forward", hanging)
        running = asyncio.create_task(answer(engine, world.request("a")))
        try:
            await until(lambda: not engine.healthy(), "an unhealthy engine", 5)
        finally:
            release.set()
        await running
        assert engine.healthy()


async def test_a_hanging_step_keeps_nobody_beyond_his_time(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Deadlines hold, closing ends, and whoever still waits is told."""
    release = threading.Event()

    def hanging(model: KANModel, *args: Any) -> Any:
        release.wait(20)
        raise RuntimeError("too late")

    engine = world.start(close_seconds=0.1, page_dir=tmp_path)
    monkeypatch.setattr(KANModel, "forward", hanging)
    try:
        late = world.request("a", deadline=time.monotonic() + 0.2)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(answer(engine, late), 5)
        waiting = [asyncio.ensure_future(answer(engine, world.request("b")))]
        waiting.append(asyncio.ensure_future(engine.encode([world.fact(FACTS[0])])))
        waiting.append(asyncio.ensure_future(engine.run(lambda: 1)))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(engine.aclose(), 5)
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(one) for one in outcomes] == [EngineUnavailable] * 3
    finally:
        release.set()


async def test_a_job_whose_caller_has_left_is_not_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, entered, release, done = KANModel.forward, threading.Event(), threading.Event(), []

    def slow(model: KANModel, *args: Any) -> Any:
        entered.set()
        release.wait(10)
        return forward(model, *args)

    async with world.engine() as engine:
        monkeypatch.setattr(KANModel, "forward", slow)
        running = asyncio.create_task(answer(engine, world.request("a", max_tokens=1)))
        await asyncio.to_thread(entered.wait, 5)
        jobs = [asyncio.create_task(engine.run(partial(done.append, number))) for number in range(100)]
        await asyncio.sleep(0.01)
        for job in jobs[:-1]:
            job.cancel()
        await asyncio.sleep(0.01)
        release.set()
        await jobs[-1]
        await running
        assert done == [99]
        await until(lambda: engine.stats().jobs_dropped == 99, "the count of dropped jobs")


async def test_a_page_file_that_cannot_be_removed_does_not_stop_the_engine(world: World, tmp_path: Path) -> None:
    fact = world.fact(FACTS[0])
    (tmp_path / f"{fact.key}.pages").mkdir()  # unlink and read both fail with OSError
    async with world.engine(page_dir=tmp_path) as engine:
        expected = await asyncio.wait_for(answer(engine, world.request("a", FACTS[0])), 5)
        engine.forget([fact.key])
        assert engine.healthy()
        again = await asyncio.wait_for(answer(engine, world.request("a", FACTS[0])), 5)
        assert again.tokens == expected.tokens


async def test_a_full_disk_costs_only_the_page_cache(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "pages"
    async with world.engine(page_dir=directory) as engine:
        shutil.rmtree(directory)
        directory.write_bytes(b"")  # from now on every write fails
        await engine.encode([world.fact(text) for text in FACTS])
        assert len((await answer(engine, world.request("a", *FACTS))).tokens) == 12
        engine.forget([world.fact(text).key for text in FACTS])
        assert engine.healthy()


def test_an_event_loop_that_closed_does_not_hurt_the_next_one(world: World) -> None:
    """A client's loop may be gone when its tokens are ready (a server restarted in one process, a test)."""

    engine = world.start()

    async def leave() -> None:
        await anext(stream(engine, world.request("a", max_tokens=800)))
        asyncio.ensure_future(engine.encode([world.fact(text) for text in FACTS]))  # noqa: RUF006
        await asyncio.sleep(0)

    async def go_on() -> None:
        try:
            one = await asyncio.wait_for(answer(engine, world.request("b", FACTS[0])), 10)
            assert len(one.tokens) == 12
            assert engine.healthy()
        finally:
            await engine.aclose()

    asyncio.run(leave())
    asyncio.run(go_on())
