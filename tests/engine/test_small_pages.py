"""The engine with facts in few bits: as with whole pages, but for rounding; and the same from disk as just made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from kan.attention import pages_for
from kan.knowledge.adapter import Adapter
from kan.knowledge.pages import PageContent, page_path, write_pages
from kan.knowledge.phi import gap_phi
from server.engine.protocol import RequestTooLarge
from server.loading import engine_options
from server.settings import Settings
from tests.engine.harness import FACTS, World, answer, assert_same, flat, one_by_one, settled
from tests.tiny import tiny_config

BITS = pytest.mark.parametrize("bits", [4, 8])


@BITS
async def test_answers_differ_by_rounding_only(world: World, bits: int) -> None:
    asked = [world.request(question, *FACTS, logprobs=3) for question in ("Who runs it?", "How much?")]
    async with world.engine() as engine:
        whole = await one_by_one(engine, asked)
    async with world.engine(page_bits=bits) as engine:
        small = await one_by_one(engine, asked)
    for one, other in zip(small, whole, strict=True):
        first, expected = (flat(each.logprobs[:1]) for each in (one, other))
        assert first == pytest.approx(expected, abs=0.8 / bits)
        assert first != pytest.approx(expected, abs=1e-9), "nothing was rounded"
        assert one.attention == pytest.approx(other.attention, abs=0.16 / bits)


@BITS
async def test_the_same_from_disk_as_just_made(world: World, tmp_path: Path, bits: int) -> None:
    asked = world.request("How much?", *FACTS[:3], logprobs=2)
    for adapter in (None, _adapter(world)):
        phi = replace(gap_phi(2, 4, 12), adapter=adapter)
        directory = tmp_path / str(adapter is None)
        async with world.engine(page_bits=bits, page_dir=directory, phi=phi) as engine:
            await engine.encode([world.fact(text) for text in FACTS[:3]])
            expected = await answer(engine, asked)
        async with world.engine(page_bits=bits, page_dir=directory, phi=phi) as engine:
            assert_same([await answer(engine, asked)], [expected])
            assert engine.stats().facts_encoded == 0


@BITS
async def test_the_order_of_facts_changes_nothing(world: World, bits: int) -> None:
    async with world.engine(page_bits=bits) as engine:
        one = await answer(engine, world.request("Who runs it?", *FACTS))
        other = await answer(engine, world.request("Who runs it?", *reversed(FACTS)))
    assert one.tokens == other.tokens
    assert one.attention == pytest.approx(other.attention[::-1] if other.attention else None, abs=1e-9)


async def test_facts_take_fewer_pages(world: World) -> None:
    facts = [world.fact(text) for text in FACTS]
    async with world.engine() as engine:
        before = engine.stats().pages_knowledge
        await engine.encode(facts)
        whole = (await settled(engine)).pages_knowledge - before
    async with world.engine(page_bits=8) as engine:
        before = engine.stats().pages_knowledge
        await engine.encode(facts)
        small = (await settled(engine)).pages_knowledge - before
    assert whole == sum(pages_for(len(fact.tokens)) for fact in facts)
    assert small == len(facts)


async def test_a_request_may_have_as_many_facts_as_their_pages_fit(world: World) -> None:
    texts = [f"Stop number {i} has a shelter." for i in range(30)]
    pages = 30 + 12
    async with world.engine(page_bits=8, pages=pages) as engine:
        await answer(engine, world.request("Which?", *texts, max_tokens=3))
    async with world.engine(pages=pages) as engine:
        with pytest.raises(RequestTooLarge, match="pages of 16 tokens"):
            await answer(engine, world.request("Which?", *texts, max_tokens=3))


async def test_files_of_another_form_are_made_again(world: World, tmp_path: Path) -> None:
    """As the setting is changed between starts, all of them in one directory (which the server does not do)."""
    asked = world.request("How much?", FACTS[0])
    expected = {}
    for bits in (4, 8, 16):
        async with world.engine(page_bits=bits) as engine:
            expected[bits] = await answer(engine, asked)
    for bits in (16, 8, 4, 16, 4):
        for made in (1, 0):
            async with world.engine(page_bits=bits, page_dir=tmp_path) as engine:
                assert_same([await answer(engine, asked)], [expected[bits]])
                assert engine.stats().facts_encoded == made


@BITS
async def test_a_damaged_file_is_made_again(world: World, tmp_path: Path, bits: int) -> None:
    asked, fact = world.request("How much?", FACTS[0]), world.fact(FACTS[0])
    async with world.engine(page_bits=bits, page_dir=tmp_path) as engine:
        expected = await answer(engine, asked)
    path = page_path(tmp_path, fact.key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x10
    path.write_bytes(data)
    async with world.engine(page_bits=bits, page_dir=tmp_path) as engine:
        assert_same([await answer(engine, asked)], [expected])
        assert engine.stats().facts_encoded == 1


async def test_a_file_without_a_version_is_made_again(world: World, tmp_path: Path) -> None:
    fact = world.fact(FACTS[0])
    zeros = torch.zeros(2, len(fact.tokens), 2, 12, dtype=torch.float64)
    write_pages(page_path(tmp_path, fact.key), PageContent(zeros, zeros.clone()))
    path = page_path(tmp_path, fact.key)
    path.write_bytes(path.read_bytes().replace(b'"format"', b'"former"'))
    asked = world.request("How much?", FACTS[0])
    async with world.engine(page_dir=tmp_path) as engine:
        found = await answer(engine, asked)
        assert engine.stats().facts_encoded == 1
    async with world.engine() as engine:
        assert_same([found], [await answer(engine, asked)])


@BITS
def test_the_setting(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Pages are fewer for their steps, and lie in a directory of their own."""
    own = engine_options(Settings(dtype="bfloat16"), tiny_config())
    monkeypatch.setenv("KALMAGROVE_PAGE_BITS", str(bits))
    small = engine_options(Settings(dtype="bfloat16"), tiny_config())
    assert (own.page_bits, small.page_bits) == (16, bits)
    assert 0.6 * own.pages < small.pages < own.pages
    assert (own.page_dir, small.page_dir) == (Path("data/pages/bfloat16"), Path(f"data/pages/bfloat16-{bits}bit"))


@pytest.mark.parametrize("bits", ["0", "2", "5", "32", "four", ""])
def test_other_numbers_of_bits_are_refused(monkeypatch: pytest.MonkeyPatch, bits: str) -> None:
    monkeypatch.setenv("KALMAGROVE_PAGE_BITS", bits)
    with pytest.raises(ValidationError, match="page_bits"):
        Settings()


def _adapter(world: World) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    layers, width, rank = 2, 2 * 2 * 12, 2
    return Adapter(
        0.2 * torch.randn(layers, width, rank, generator=generator),
        0.2 * torch.randn(layers, rank, width, generator=generator),
        torch.zeros(layers, 1, width),
    )
