"""Facts in the engine: mounted in any order, shared, encoded, forgotten, kept on disk."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kan.knowledge.adapter import Adapter
from kan.knowledge.fit import Fit
from kan.knowledge.pages import PageContent, write_pages
from kan.knowledge.phi import FEATURES, Phi, zero_phi
from server.engine.pages import files
from server.engine.pages.sharing import LOCK
from server.engine.protocol import (
    FactTokens,
    GenerationRequest,
    MountedFact,
)
from tests.engine.harness import (
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


async def test_phi_is_used_and_a_shut_out_fact_is_absent(world: World) -> None:
    """φ far below zero for irrelevant facts: as if they had not been mounted (but for where the context starts)."""
    config = world.checkpoint.config
    layers, heads = config.num_layers, config.num_heads
    coefficients = torch.zeros(layers, heads, len(FEATURES), 3)
    coefficients[:, :, 0, 0] = -1e4  # relevance -0.2 and below; 0.4 and above have no bias
    relevant, longest = world.fact(FACTS[1]), world.fact(FACTS[5])
    noise = tuple(3 + (7 * i) % 250 for i in range(len(longest.tokens)))

    def asked(shut_out: FactTokens) -> GenerationRequest:
        plain = world.request("How much?", FACTS[1], max_tokens=30)
        return replace(plain, facts=(MountedFact(relevant, Fit(0.5)), MountedFact(shut_out, Fit(-1.0))))

    async with world.engine(phi=Phi(coefficients)) as engine:
        one = await answer(engine, asked(longest))
        other = await answer(engine, asked(FactTokens("noise", noise)))
    async with world.engine() as engine:
        unbiased = await answer(engine, asked(longest))
    assert one.tokens == other.tokens
    assert one.attention is not None
    assert one.attention[1] == pytest.approx(0, abs=1e-9)
    assert one.tokens != unbiased.tokens


async def test_an_adapter_changes_facts_and_nothing_else(world: World, tmp_path: Path) -> None:
    """Encoded now, resident or read from disk: the same; what is on disk is the plain model's."""
    config = world.checkpoint.config
    width = 2 * config.num_kv_heads * config.head_dim
    generator = torch.Generator().manual_seed(4)
    shapes = ((config.num_layers, width, 2), (config.num_layers, 2, width), (config.num_layers, 1, width))
    adapter = Adapter(*(0.3 * torch.randn(shape, generator=generator) for shape in shapes))
    phi = replace(zero_phi(config.num_layers, config.num_heads), adapter=adapter)
    asked, bare = world.request("How much?", *FACTS[:3], logprobs=2), world.request("How much?", logprobs=2)
    async with world.engine(page_dir=tmp_path) as engine:
        plain, without = await answers(engine, [asked, bare])
    async with world.engine(page_dir=tmp_path, phi=phi) as engine:
        from_disk, untouched = await answers(engine, [asked, bare])
        assert engine.stats().facts_encoded == 0
    async with world.engine(phi=phi, step_tokens=20) as engine:
        encoded, resident = await one_by_one(engine, [asked, asked])
        assert engine.stats().facts_encoded == 3
    assert_same([untouched, encoded, resident], [without, from_disk, from_disk])
    assert flat(plain.logprobs) != pytest.approx(flat(from_disk.logprobs), abs=1e-2)


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
        engine.forget([unread.key, read.key, "never heard of"])
        with_reader = with_all - len_pages(unread)
        await until(lambda: engine.stats().pages_knowledge == with_reader, "the end of the unread fact alone")
        rest = [chunk async for chunk in source]
        assert tuple(token for chunk in (first, *rest) for token in chunk.token_ids) == expected.tokens
        assert (await settled(engine)).pages_knowledge == with_reader - len_pages(read)
        engine.forget([world.fact(FACTS[1]).key])
        assert (await settled(engine)).pages_knowledge == empty


def len_pages(fact: FactTokens) -> int:
    return -(-len(fact.tokens) // 16)


async def test_a_forgotten_fact_can_come_back(world: World) -> None:
    fact = world.fact(FACTS[0])
    async with world.engine() as engine:
        expected = await answer(engine, world.request("Where?", FACTS[0]))
        engine.forget([fact.key])
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
        engine.forget([fact.key])
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

    def slowly(path: Path, content: PageContent) -> None:
        time.sleep(0.02)
        write_pages(path, content)

    monkeypatch.setattr(files, "write_pages", slowly)
    facts = [world.fact(text) for text in FACTS]
    async with world.engine(page_dir=tmp_path) as engine:
        await engine.encode(facts)
        engine.forget([fact.key for fact in facts])
    assert file_names(tmp_path) == []


async def test_an_edit_that_is_dropped_makes_no_pages(world: World, tmp_path: Path) -> None:
    """Whatever its stage; and what somebody else waits for is made all the same."""
    facts = [world.fact(f"Stop number {i} has a shelter.") for i in range(30)]
    async with world.engine(page_dir=tmp_path, step_tokens=16) as engine:
        empty = engine.stats().pages_knowledge
        for milliseconds in (0, 1, 5, 20):
            dropped = asyncio.create_task(engine.encode(facts, bulk=True))
            shared = asyncio.create_task(engine.encode(facts[-1:]))
            await asyncio.sleep(milliseconds / 1000)
            dropped.cancel()
            await asyncio.gather(dropped, return_exceptions=True)
            engine.forget([fact.key for fact in facts[:-1]])
            await shared
            await until(lambda: engine.stats().pages_knowledge == empty + len_pages(facts[-1]), "the rest's end")
            await engine.audit([facts[-1].key])
        assert engine.stats().facts_encoded < len(facts)
    assert file_names(tmp_path) == [f"{facts[-1].key}.pages"]


async def test_a_small_edit_overtakes_a_bulk_one(world: World) -> None:
    bulk = [world.fact(f"Stop number {i} has a shelter.") for i in range(60)]
    async with world.engine(step_tokens=16) as engine:
        slow = asyncio.create_task(engine.encode(bulk, bulk=True))
        await until(lambda: engine.stats().facts_encoded > 0, "the start of the bulk edit")
        before = engine.stats().facts_encoded
        await engine.encode([world.fact(FACTS[0])])
        assert engine.stats().facts_encoded - before < 5, "it waited for the bulk edit"
        assert not slow.done()
        await slow


async def test_the_steps_of_a_bulk_edit_are_short(world: World) -> None:
    """Whoever comes meanwhile waits for one of them."""
    facts = [world.fact(f"Stop number {i} has a shelter.") for i in range(30)]
    rows = sum(len(fact.tokens) for fact in facts)
    steps = []
    for bulk in (False, True):
        async with world.engine(step_tokens=rows, busy_step_tokens=rows // 10, max_running=1) as engine:
            await engine.encode(facts, bulk=bulk)
            steps.append((await settled(engine)).steps)
    assert steps[0] <= 2
    assert steps[1] >= 10


async def test_a_request_that_waits_for_its_facts_blocks_nobody(world: World) -> None:
    """Its facts take many steps; another request's answer comes first, and both are right."""
    bulk = [world.fact(f"Stop number {i} has a shelter.") for i in range(60)]
    cold, warm = world.request("Who?", *FACTS[:4]), world.request("What?", max_tokens=3)
    async with world.engine() as engine:
        expected = await one_by_one(engine, [cold, warm])
    async with world.engine(step_tokens=16, max_running=2, busy_step_tokens=7) as engine:
        slow = asyncio.create_task(engine.encode(bulk))
        first, second = (asyncio.create_task(answer(engine, asked)) for asked in (cold, warm))
        quick = await second
        assert not first.done()
        assert_same([await first, quick], expected)
        await slow


async def test_what_was_deleted_meanwhile_goes_with_its_last_reader(world: World, tmp_path: Path) -> None:
    """A request admitted before the deletion still waits for its fact when the fact is forgotten."""
    async with world.engine(page_dir=tmp_path, step_tokens=4) as engine:
        source = stream(engine, world.request("Who?", *FACTS[:3]))
        await until(lambda: engine.stats().waiting == 1, "a waiting request")
        engine.forget([world.fact(text).key for text in FACTS])
        assert len([chunk async for chunk in source]) == 12
        await settled(engine)
        await engine.audit([])
    assert file_names(tmp_path) == []


def file_names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if entry.name != LOCK)
