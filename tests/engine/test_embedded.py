"""What the engine answers: the same whatever else it does, and as the protocol says."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from kan.knowledge.fit import Fit
from server.engine.protocol import (
    EngineUnavailable,
    FactTokens,
    GenerationRequest,
    MountedFact,
    RequestTooLarge,
)
from tests.engine.harness import (
    EOS,
    EVERY_MODEL,
    FACTS,
    World,
    answer,
    answers,
    assert_same,
    flat,
    one_by_one,
    settled,
    stream,
    until,
)

pytestmark = EVERY_MODEL


def mixed_requests(world: World) -> list[GenerationRequest]:
    """Short and long, with and without knowledge, greedy and not."""
    return [
        world.request("a"),
        world.request("Where does line 4 end? " * 6, max_tokens=20),
        world.request("Who runs the depot?", FACTS[2]),
        world.request("How much?", *FACTS[:4], max_tokens=25),
        world.request("How much?", *FACTS, temperature=1.0, seed=3, max_tokens=25),
        world.request("Free choice", temperature=1.3, top_p=0.9, seed=4, max_tokens=25, logprobs=2),
        world.request("x" * 100, FACTS[0], FACTS[5], repetition_penalty=1.3, presence_penalty=0.5),
    ]


async def test_batching_changes_no_token(world: World) -> None:
    async with world.engine() as engine:
        alone = await one_by_one(engine, mixed_requests(world))
        assert_same(await answers(engine, mixed_requests(world)), alone)
        assert len({one.tokens for one in alone}) == len(alone), "the requests do not tell engines apart"


@pytest.mark.parametrize(("step_tokens", "busy_step_tokens"), [(1, 9), (3, 10), (16, 17), (17, 9), (900, 900)])
async def test_chunked_prefill_changes_no_token(world: World, step_tokens: int, busy_step_tokens: int) -> None:
    async with world.engine() as engine:
        expected = await one_by_one(engine, mixed_requests(world))
    sizes: dict[str, Any] = {"step_tokens": step_tokens, "busy_step_tokens": busy_step_tokens, "max_running": 8}
    async with world.engine(**sizes) as engine:
        assert_same(await answers(engine, mixed_requests(world)), expected)
        assert_same(await one_by_one(engine, mixed_requests(world)), expected)


async def test_seeds_repeat_in_any_company(world: World) -> None:
    def seeded(seed: int | None) -> GenerationRequest:
        return world.request("Free choice", temperature=1.0, seed=seed, max_tokens=20)

    async with world.engine() as engine:
        alone = await answer(engine, seeded(5))
        crowd = await answers(engine, [seeded(5), seeded(6), seeded(None), seeded(None), seeded(5)])
    assert crowd[0].tokens == crowd[4].tokens == alone.tokens
    assert len({one.tokens for one in crowd}) == 4


async def test_the_text_is_that_of_the_tokens(world: World) -> None:
    async with world.engine() as engine:
        for seed in range(4):
            one = await answer(engine, world.request("Say", temperature=1.0, seed=seed, max_tokens=40))
            assert one.text == world.prompt.tokenizer.decode(one.tokens)
            assert (one.finish_reason, len(one.tokens)) == ("length", 40)


async def test_stop_strings_cut_the_text_and_the_work(world: World) -> None:
    async with world.engine() as engine:
        free = await answer(engine, world.request("Say", temperature=1.0, seed=1, max_tokens=60))
        for length in (1, 2, 5):
            start = 20
            stop = free.text[start : start + length]
            cut = free.text.find(stop)
            one = await answer(
                engine, world.request("Say", temperature=1.0, seed=1, max_tokens=60, stop=("\0never", stop))
            )
            assert (one.text, one.finish_reason) == (free.text[:cut], "stop")
            assert one.tokens == free.tokens[: len(one.tokens)]
            assert len(one.tokens) < 60
        held = free.text + "and more"
        one = await answer(engine, world.request("Say", temperature=1.0, seed=1, max_tokens=60, stop=(held,)))
        assert (one.text, one.finish_reason) == (free.text, "length"), "a stop string that never came hid text"


async def test_the_end_token_ends(world: World) -> None:
    async with world.engine() as engine:
        ended = await answer(engine, world.request("Say", logit_bias={EOS: 1000.0}, ignore_eos=False, logprobs=1))
        assert (ended.text, ended.tokens, ended.finish_reason) == ("", (EOS,), "stop")
        going = await answer(engine, world.request("Say", logit_bias={EOS: 1000.0}, max_tokens=5))
        assert (going.text, going.tokens, going.finish_reason) == ("", (EOS,) * 5, "length")


@pytest.mark.parametrize("facts", [(), FACTS[:3]])
async def test_logprobs_of_generated_and_prompt_tokens_agree(world: World, facts: tuple[str, ...]) -> None:
    """What was generated with log probabilities gets the same ones when it comes back as a prompt."""
    asked = world.request("Say", *facts, temperature=1.0, seed=2, max_tokens=20, logprobs=3)
    async with world.engine(step_tokens=7, busy_step_tokens=40) as engine:
        one = await answer(engine, asked)
        again = replace(world.request("", *facts, max_tokens=1, prompt_logprobs=3), prompt=asked.prompt + one.tokens)
        scored = await answer(engine, again)
    assert [entry.token_id for entry in one.logprobs] == list(one.tokens)
    for entry in one.logprobs:
        assert len(entry.top) == 3
        assert 0 < sum(math.exp(logprob) for _, logprob in entry.top) <= 1 + 1e-6
        assert entry.logprob <= entry.top[0][1]
    assert scored.prompt_logprobs is not None
    assert len(scored.prompt_logprobs) == len(again.prompt)
    assert scored.prompt_logprobs[0] is None
    echoed = scored.prompt_logprobs[-len(one.tokens) :]
    assert flat(echoed) == pytest.approx(flat(one.logprobs), abs=1e-5)


async def test_all_alternatives_sum_to_one(world: World) -> None:
    size = world.checkpoint.config.vocab_size
    async with world.engine() as engine:
        one = await answer(engine, world.request("Say", max_tokens=3, logprobs=size + 5))
        none = await answer(engine, world.request("Say", max_tokens=3, logprobs=0))
    for entry in one.logprobs:
        assert len(entry.top) == size
        assert sum(math.exp(logprob) for _, logprob in entry.top) == pytest.approx(1, abs=1e-5)
        assert entry.top[0] == (entry.token_id, entry.logprob)
    assert none.logprobs == tuple(replace(entry, top=()) for entry in one.logprobs)


async def test_what_can_never_fit_is_refused_at_once(world: World) -> None:
    room = world.room
    async with world.engine(pages=40) as engine:
        for impossible in (
            world.request("a", max_tokens=room),
            world.request("a" * room, max_tokens=1),
            world.request("a", FACTS[0], max_tokens=room - len(world.prompt.preamble)),
            world.request("a", max_tokens=40 * 16),
            world.request("a", "f" * 100),
        ):
            with pytest.raises(RequestTooLarge):
                engine.generate(impossible)
        with pytest.raises(RequestTooLarge):
            await engine.encode([world.fact("f" * 100)])
        assert (await settled(engine)).steps == 0
        assert len((await answer(engine, world.request("a", max_tokens=100))).tokens) == 100


@pytest.mark.parametrize(
    "damage",
    [
        {"prompt": ()},
        {"prompt": (5, 100_000)},
        {"prompt": (5, -1)},
        {"facts": (MountedFact(FactTokens("k", ()), Fit(0.5)),)},
        {"facts": (MountedFact(FactTokens("k", (5, 100_000)), Fit(0.5)),)},
        {"facts": (MountedFact(FactTokens("k", (5,)), Fit(math.nan)),)},
    ],
    ids=str,
)
async def test_a_malformed_request_is_refused_and_harms_nobody(world: World, damage: dict[str, Any]) -> None:
    bystander = world.request("Say", FACTS[0], max_tokens=60)
    async with world.engine() as engine:
        expected = await answer(engine, bystander)
        running = asyncio.create_task(answer(engine, bystander))
        await until(lambda: engine.stats().running == 1, "the bystander's start")
        with pytest.raises((ValueError, RequestTooLarge)):
            engine.generate(replace(world.request("a"), **damage))
        assert_same([await running], [expected])


async def test_the_first_token_outside_the_vocabulary_is_refused(world: World) -> None:
    last = world.checkpoint.config.vocab_size - 1
    async with world.engine() as engine:
        assert (await answer(engine, replace(world.request("a"), prompt=(last,)))).finish_reason == "length"
        with pytest.raises((ValueError, RequestTooLarge)):
            engine.generate(replace(world.request("a"), prompt=(last + 1,)))


@pytest.mark.parametrize("tokens", [(), (5, 100_000), (-1,)])
async def test_a_malformed_fact_is_not_encoded(world: World, tokens: tuple[int, ...]) -> None:
    async with world.engine() as engine:
        with pytest.raises((ValueError, RequestTooLarge)):
            await engine.encode([world.fact(FACTS[0]), FactTokens("bad", tokens)])
        assert len((await answer(engine, world.request("a", FACTS[0]))).tokens) == 12


@pytest.mark.parametrize("field", [{"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}, {"logit_bias": {999: 1.0}}])
async def test_bad_sampling_is_refused_and_takes_no_place(world: World, field: dict[str, Any]) -> None:
    async with world.engine(max_running=1) as engine:
        for _ in range(3):
            with pytest.raises(ValueError, match=next(iter(field))):
                engine.generate(world.request("a", **field))
        assert len((await answer(engine, world.request("a"))).tokens) == 12


async def test_a_closed_engine_answers_everyone(world: World) -> None:
    async with world.engine(max_running=1) as engine:
        running = stream(engine, world.request("a", max_tokens=world.room - 1))
        waiting = stream(engine, world.request("b", max_tokens=world.room - 1))
        await anext(running)
        encoding = asyncio.create_task(engine.encode([world.fact(text) for text in FACTS]))
        await asyncio.sleep(0)
        await engine.aclose()
        await engine.aclose()
        for left in (running, waiting):
            with pytest.raises(EngineUnavailable):
                await asyncio.wait_for(exhaust(left), 5)
        await asyncio.wait([encoding], timeout=5)
        assert encoding.done(), "encode() hangs"
        assert encoding.exception() is None or isinstance(encoding.exception(), EngineUnavailable)
        assert not engine.healthy()
        with pytest.raises(EngineUnavailable):
            engine.generate(world.request("a"))
        with pytest.raises(EngineUnavailable):
            await engine.encode([world.fact(FACTS[0])])
        engine.forget(["k"])


async def exhaust(source: Any) -> None:
    async for _ in source:
        pass
