"""What the engine answers: the same whatever else it does, and as the protocol says."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kan.pages import PageContent, pack
from kan.phi import Phi, PhiError, save_phi
from server.engine import page_store
from server.engine.protocol import (
    EngineUnavailable,
    FactTokens,
    GenerationRequest,
    MountedFact,
    RequestTooLarge,
    TokenLogprob,
)
from tests.engine.harness import EOS, FACTS, Answer, World, answer, answers, one_by_one, settled, stream, until
from tests.tiny import tiny_config


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


def assert_same(observed: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """Equal tokens and text; attention and log probabilities equal but for rounding."""
    for one, other in zip(observed, expected, strict=True):
        assert one.tokens == other.tokens
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.attention == pytest.approx(other.attention, abs=1e-5)
        assert flat(one.logprobs) == pytest.approx(flat(other.logprobs), abs=1e-5)


def flat(logprobs: Sequence[TokenLogprob | None]) -> list[float]:
    return [x for one in logprobs if one for x in (one.logprob, *(logprob for _, logprob in one.top))]


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


async def test_one_fact_is_the_same_text_in_one_sequence(world: World) -> None:
    mounted = world.request("Who runs the depot?", FACTS[2], max_tokens=30)
    whole = (*world.prompt.preamble, *mounted.facts[0].fact.tokens, *mounted.prompt)
    plain = replace(mounted, prompt=whole, facts=())
    async with world.engine() as engine:
        assert (await answer(engine, mounted)).tokens == (await answer(engine, plain)).tokens


async def test_the_order_of_facts_does_not_matter(world: World) -> None:
    asked = world.request("How much is it?", *FACTS, temperature=1.0, seed=8, max_tokens=40)
    turned = replace(asked, facts=asked.facts[::-1])
    async with world.engine() as engine:
        one, other = await answers(engine, [asked, turned])
    assert one.tokens == other.tokens
    assert one.attention is not None
    assert other.attention is not None
    assert one.attention == pytest.approx(other.attention[::-1], abs=1e-6)


async def test_attention_is_a_share_per_fact(world: World) -> None:
    async with world.engine() as engine:
        with_facts = await answer(engine, world.request("How much?", *FACTS[:4]))
        without = await answer(engine, world.request("How much?"))
    assert with_facts.attention is not None
    assert len(with_facts.attention) == 4
    assert all(share > 0 for share in with_facts.attention)
    assert sum(with_facts.attention) < 1
    assert not without.attention


async def test_a_fact_mounted_twice_counts_twice_and_is_released_twice(world: World) -> None:
    once = world.request("How much?", FACTS[1])
    async with world.engine() as engine:
        doubled = await answer(engine, replace(once, facts=once.facts * 2))
    assert doubled.attention is not None
    assert doubled.attention[0] == pytest.approx(doubled.attention[1], abs=1e-6)


async def test_phi_is_used_and_a_shut_out_fact_is_absent(world: World, tmp_path: Path) -> None:
    """φ far below zero for irrelevant facts: as if they had not been mounted (but for where the context starts)."""
    layers, heads = tiny_config().num_layers, tiny_config().num_heads
    coefficients = torch.zeros(layers, heads, 3, 3)
    coefficients[:, :, 0, 0] = -1e4  # relevance -1; 0 and 1 have no bias
    save_phi(Phi(coefficients), tmp_path / "phi.safetensors")
    relevant, longest = world.fact(FACTS[1]), world.fact(FACTS[5])
    noise = tuple(3 + (7 * i) % 250 for i in range(len(longest.tokens)))

    def asked(shut_out: FactTokens) -> GenerationRequest:
        plain = world.request("How much?", FACTS[1], max_tokens=30)
        return replace(plain, facts=(MountedFact(relevant, 0.5), MountedFact(shut_out, -1.0)))

    async with world.engine(phi=tmp_path / "phi.safetensors") as engine:
        one = await answer(engine, asked(longest))
        other = await answer(engine, asked(FactTokens("noise", noise)))
    async with world.engine() as engine:
        unbiased = await answer(engine, asked(longest))
    assert one.tokens == other.tokens
    assert one.attention is not None
    assert one.attention[1] == pytest.approx(0, abs=1e-9)
    assert one.tokens != unbiased.tokens


async def test_a_damaged_phi_file_is_refused_by_name(world: World, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    save_phi(Phi(torch.ones(2, 4, 3, 3)), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PhiError, match=r"broken\.safetensors"):
        async with world.engine(phi=path):
            pass


async def test_shared_facts_are_held_once(world: World) -> None:
    async with world.engine(max_running=8, busy_step_tokens=32) as engine:
        await engine.encode([world.fact(text) for text in FACTS])
        before = await settled(engine)
        held = set()

        def look() -> None:
            held.add(engine.stats().pages_knowledge)

        asked = [world.request(f"question {i}", *FACTS) for i in range(8)]
        await asyncio.gather(*(answer(engine, request, look) for request in asked))
        after = await settled(engine)
        assert held == {before.pages_knowledge} == {after.pages_knowledge}
        assert after.facts_encoded == before.facts_encoded == len(FACTS)
        assert (after.page_hits, after.page_misses) == (8 * len(FACTS), 0)


async def test_encode_is_idempotent_and_a_miss_encodes_by_itself(world: World) -> None:
    facts = [world.fact(text) for text in FACTS[:3]]
    async with world.engine() as engine:
        await engine.encode([])
        await asyncio.gather(engine.encode(facts), engine.encode(facts[:2]), engine.encode(facts[1:]))
        await engine.encode(facts)
        assert (await settled(engine)).facts_encoded == 3
        resident = await answer(engine, world.request("How much?", *FACTS[:4]))
        stats = await settled(engine)
        assert (stats.page_hits, stats.page_misses, stats.facts_encoded) == (3, 1, 4)
    async with world.engine() as engine:
        assert_same([await answer(engine, world.request("How much?", *FACTS[:4]))], [resident])


async def test_encoding_and_streams_do_not_disturb_each_other(world: World) -> None:
    asked = [world.request(f"question {i}", *FACTS[:2], max_tokens=200) for i in range(4)]
    async with world.engine() as engine:
        expected = await one_by_one(engine, asked)
    async with world.engine(max_running=4, busy_step_tokens=40) as engine:
        streams = asyncio.create_task(answers(engine, asked))
        await until(lambda: engine.stats().running == 4, "four running streams")
        await engine.encode([world.fact(f"Stop number {i} has a shelter.") for i in range(30)])
        assert engine.stats().running == 4, "encoding waited for the streams"
        assert_same(await streams, expected)
        assert (await settled(engine)).facts_encoded == 32


async def test_forget_frees_pages_at_once_or_after_the_last_reader(world: World) -> None:
    async with world.engine() as engine:
        empty = engine.stats().pages_knowledge
        expected = await answer(engine, world.request("How much?", *FACTS[:2], max_tokens=200))
        unread, read = world.fact(FACTS[3]), world.fact(FACTS[0])
        await engine.encode([unread])
        with_all = (await settled(engine)).pages_knowledge
        source = stream(engine, world.request("How much?", *FACTS[:2], max_tokens=200))
        first = await anext(source)
        await engine.forget([unread.key, read.key, "never heard of"])
        with_reader = with_all - len_pages(unread)
        await until(lambda: engine.stats().pages_knowledge == with_reader, "the end of the unread fact alone")
        rest = [chunk async for chunk in source]
        assert tuple(token for chunk in (first, *rest) for token in chunk.token_ids) == expected.tokens
        assert (await settled(engine)).pages_knowledge == with_reader - len_pages(read)
        await engine.forget([world.fact(FACTS[1]).key])
        assert (await settled(engine)).pages_knowledge == empty


def len_pages(fact: FactTokens) -> int:
    return -(-len(fact.tokens) // 16)


async def test_a_forgotten_fact_can_come_back(world: World) -> None:
    fact = world.fact(FACTS[0])
    async with world.engine() as engine:
        expected = await answer(engine, world.request("Where?", FACTS[0]))
        await engine.forget([fact.key])
        await engine.encode([fact])
        resident = (await settled(engine)).pages_knowledge
        assert_same(await answers(engine, [world.request("Where?", FACTS[0])] * 2), [expected] * 2)
        assert (await settled(engine)).pages_knowledge == resident, "what came back was dropped again"
        assert engine.stats().facts_encoded == 2


async def test_forgetting_a_fact_on_its_way_leaves_nothing(world: World) -> None:
    async with world.engine(step_tokens=1) as engine:
        empty = engine.stats().pages_knowledge
        fact = world.fact(FACTS[0])
        encoding = asyncio.create_task(engine.encode([fact]))
        await until(lambda: engine.stats().pages_knowledge > empty, "the start of the encoding")
        await engine.forget([fact.key])
        await asyncio.gather(encoding, return_exceptions=True)
        await until(lambda: engine.stats().pages_knowledge == empty, "the end of the forgotten fact", 3)


async def test_pages_on_disk_survive_a_restart(world: World, tmp_path: Path) -> None:
    asked = world.request("How much?", *FACTS[:3])
    async with world.engine(page_dir=tmp_path) as engine:
        await engine.encode([world.fact(text) for text in FACTS[:3]])
        expected = await answer(engine, asked)
    assert len(file_names(tmp_path)) == 3
    async with world.engine(page_dir=tmp_path) as engine:
        await engine.encode([world.fact(text) for text in FACTS[:3]])
        assert_same([await answer(engine, asked)], [expected])
        assert engine.stats().facts_encoded == 0
    damaged = tmp_path / f"{world.fact(FACTS[0]).key}.pages"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    async with world.engine(page_dir=tmp_path) as engine:
        assert_same([await answer(engine, asked)], [expected])
        assert engine.stats().facts_encoded == 1


async def test_nothing_of_a_forgotten_fact_stays_on_disk(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it is forgotten while its file is being written."""

    def slowly(content: PageContent) -> bytes:
        time.sleep(0.02)
        return pack(content)

    monkeypatch.setattr(page_store, "pack", slowly)
    facts = [world.fact(text) for text in FACTS]
    async with world.engine(page_dir=tmp_path) as engine:
        await engine.encode(facts)
        await engine.forget([fact.key for fact in facts])
    assert file_names(tmp_path) == []


def file_names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


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
    size = tiny_config().vocab_size
    async with world.engine() as engine:
        one = await answer(engine, world.request("Say", max_tokens=3, logprobs=size + 5))
        none = await answer(engine, world.request("Say", max_tokens=3, logprobs=0))
    for entry in one.logprobs:
        assert len(entry.top) == size
        assert sum(math.exp(logprob) for _, logprob in entry.top) == pytest.approx(1, abs=1e-5)
        assert entry.top[0] == (entry.token_id, entry.logprob)
    assert none.logprobs == tuple(replace(entry, top=()) for entry in one.logprobs)


async def test_what_can_never_fit_is_refused_at_once(world: World) -> None:
    room = tiny_config().max_position_embeddings
    async with world.engine(pages=40) as engine:
        for impossible in (
            world.request("a", max_tokens=room),
            world.request("a" * room, max_tokens=1),
            world.request("a", FACTS[0], max_tokens=room - 60),
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
        {"prompt": (5, 259)},
        {"prompt": (5, -1)},
        {"facts": (MountedFact(FactTokens("k", ()), 0.5),)},
        {"facts": (MountedFact(FactTokens("k", (5, 100_000)), 0.5),)},
        {"facts": (MountedFact(FactTokens("k", (5,)), math.nan),)},
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


@pytest.mark.parametrize("tokens", [(), (5, 100_000), (-1,)])
async def test_a_malformed_fact_is_not_encoded(world: World, tokens: tuple[int, ...]) -> None:
    async with world.engine() as engine:
        with pytest.raises((ValueError, RequestTooLarge)):
            await engine.encode([world.fact(FACTS[0]), FactTokens("bad", tokens)])
        assert len((await answer(engine, world.request("a", FACTS[0]))).tokens) == 12


@pytest.mark.parametrize("field", [{"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}, {"logit_bias": {999: 1.0}}])
async def test_bad_sampling_is_refused_and_takes_no_place(world: World, field: dict[str, Any]) -> None:
    async with world.engine(max_waiting=1, max_running=1) as engine:
        for _ in range(3):
            with pytest.raises(ValueError, match=next(iter(field))):
                engine.generate(world.request("a", **field))
        assert len((await answer(engine, world.request("a"))).tokens) == 12


async def test_a_closed_engine_answers_everyone(world: World) -> None:
    async with world.engine(max_running=1) as engine:
        running = stream(engine, world.request("a", max_tokens=900))
        waiting = stream(engine, world.request("b", max_tokens=900))
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
        with pytest.raises(EngineUnavailable):
            await engine.forget(["k"])


async def exhaust(source: Any) -> None:
    async for _ in source:
        pass
