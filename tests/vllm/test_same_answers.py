"""vLLM answers as the embedded engine: the same tokens in float32, log probabilities within rounding, φ included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from kan.knowledge.fit import Fit
from kan.knowledge.pages import PageContent, page_path, read_pages
from server.engine.protocol import EngineUnavailable, FactTokens, GenerationRequest, MountedFact
from server.engine.vllm.engine import VllmEngine
from tests.vllm.answers import Answer, answer, answers, largest_difference
from tests.vllm.conftest import Laboratory, mounted

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

TOLERANCE = 2e-4
"""On log probabilities: 30 layers of float32 sums in another order (the largest seen is in ARCHITECTURE.md)."""
QUESTIONS = 56


def questions(laboratory: Laboratory) -> list[GenerationRequest]:
    """About facts from all over the demo; 1 to 8 facts mounted."""
    chosen = laboratory.facts[:: len(laboratory.facts) // QUESTIONS][:QUESTIONS]
    return [
        laboratory.request(f"What do you know about this: {fact.text[:60]}?", count=1 + number % 8, logprobs=0)
        for number, fact in enumerate(chosen)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(laboratory: Laboratory) -> AsyncIterator[VllmEngine]:
    async with laboratory.vllm() as engine:
        yield engine


async def test_same_tokens_and_logprobs(laboratory: Laboratory, engine: VllmEngine) -> None:
    asked = questions(laboratory)
    assert len(asked) >= 50
    async with laboratory.embedded() as embedded:
        await mounted(embedded, asked)
        expected = await answers(embedded, asked)
    await mounted(engine, asked)
    assert engine.stats().facts_encoded == len({one.fact.key for request in asked for one in request.facts})
    observed = await answers(engine, asked)
    difference = largest_difference(observed, expected)
    print(f"largest difference of a log probability: {difference:.2g}")
    assert [one.tokens for one in observed] == [one.tokens for one in expected]
    assert [one.text for one in observed] == [one.text for one in expected]
    assert difference < TOLERANCE


async def test_order_does_not_matter(laboratory: Laboratory, engine: VllmEngine) -> None:
    request = laboratory.request("How much does a day pass cost?", logprobs=0)
    await mounted(engine, [request])
    one, other = await answers(engine, [request, replace(request, facts=request.facts[::-1])])
    assert one.tokens == other.tokens
    assert largest_difference([one], [other]) < TOLERANCE


async def test_without_facts_it_is_the_bare_model(laboratory: Laboratory, engine: VllmEngine) -> None:
    request = laboratory.request("What is the capital of France?", count=0)
    async with laboratory.embedded() as embedded:
        assert (await answer(engine, request)).tokens == (await answer(embedded, request)).tokens


async def test_another_relevance_is_another_distribution(laboratory: Laboratory, engine: VllmEngine) -> None:
    """Over the same facts: so φ reached the keys, and no cached block of the other φ was used."""
    request = laboratory.request("Who is the press officer?", logprobs=0)
    await mounted(engine, [request])
    even = replace(request, facts=tuple(MountedFact(one.fact, Fit(0.3)) for one in request.facts))
    one, other = await answers(engine, [request, even])
    assert abs(one.logprobs[0].logprob - other.logprobs[0].logprob) > 10 * TOLERANCE


async def test_damage_fails_one_request_only(laboratory: Laboratory, engine: VllmEngine) -> None:
    """Its neighbour gets an answer, and so does the same request the next time: the fact is recorded again."""
    harmed, neighbour = laboratory.request("Who is the harbour master?", count=3), laboratory.request("Slogan?")
    fresh = laboratory.tokens("The harbour master keeps a brass telescope in the signal tower.")
    await mounted(engine, [harmed, neighbour])
    await engine.encode([fresh])
    file = page_path(laboratory.directory / "pages" / "float32", fresh.key)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)  # no worker has mapped it yet
    harmed = replace(harmed, facts=(*harmed.facts, MountedFact(fresh, Fit(0.2))))
    first, second = await asyncio.gather(answer(engine, harmed), answer(engine, neighbour), return_exceptions=True)
    assert isinstance(first, EngineUnavailable)
    assert isinstance(second, Answer)
    assert isinstance(await answer(engine, harmed), Answer)
    assert engine.healthy()


async def test_a_missing_file_is_recorded_again(laboratory: Laboratory, engine: VllmEngine) -> None:
    request = laboratory.request("Where is the museum?", count=2)
    await mounted(engine, [request])
    before = engine.stats()
    engine.forget([one.fact.key for one in request.facts])
    assert isinstance(await answer(engine, request), Answer)
    assert engine.stats().page_misses == before.page_misses + 2


async def test_forgotten_facts_leave_the_disk_when_their_readers_end(
    laboratory: Laboratory, engine: VllmEngine
) -> None:
    request = laboratory.request("Where is the funicular?", count=2, max_tokens=40)
    await mounted(engine, [request])
    files = [page_path(laboratory.directory / "pages" / "float32", one.fact.key) for one in request.facts]
    stream = engine.generate(request)
    await anext(stream)
    engine.forget([one.fact.key for one in request.facts])
    assert all(file.exists() for file in files)
    assert len([chunk async for chunk in stream]) == 39
    await asyncio.to_thread(engine._files.flush)
    assert not any(file.exists() for file in files)


async def test_both_engines_write_the_same_pages(laboratory: Laboratory, engine: VllmEngine) -> None:
    fact = laboratory.tokens(laboratory.facts[0].text)
    await engine.encode([fact])
    own = laboratory.directory / "embedded-pages"
    async with laboratory.embedded(page_dir=own) as embedded:
        await embedded.encode([fact])
    recorded, encoded = (_read(laboratory, fact, at) for at in (laboratory.directory / "pages" / "float32", own))
    assert torch.allclose(recorded.keys, encoded.keys, atol=2e-4, rtol=0)
    assert torch.allclose(recorded.values, encoded.values, atol=2e-4, rtol=0)


def _read(laboratory: Laboratory, fact: FactTokens, directory: Path) -> PageContent:
    config = laboratory.checkpoint.config
    shape = (config.num_layers, len(fact.tokens), config.num_kv_heads, config.head_dim)
    return read_pages(page_path(directory, fact.key), shape, torch.float32)
