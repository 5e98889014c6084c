"""√n attention in the embedded engine: long contexts in any schedule, with facts and preemption; what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kan.config import KANConfig
from server.engine.paged.options import EngineOptions
from server.engine.protocol import GenerationRequest
from tests.engine.harness import FACTS, Answer, World, answers, assert_same, flat, one_by_one
from tests.tiny import tiny_config

SQRT: dict[str, Any] = {"attention": "sqrt", "attention_blocks": 1, "attention_threshold": 0}
"""Rows are routed from place 256 on."""
PROMPT = "".join(f"Stop {number} is {'north' if number % 3 else 'south'} of the depot; " for number in range(14))
"""Over 400 tokens of the tiny model."""


def requests(world: World) -> list[GenerationRequest]:
    return [
        world.request(PROMPT, max_tokens=12, logprobs=2),
        world.request(PROMPT[7:], *FACTS[:3], max_tokens=12, logprobs=2),
        world.request(PROMPT[:300], *FACTS[2:4], max_tokens=20, temperature=1.0, seed=5),
        world.request("short", FACTS[0], max_tokens=10),
    ]


def growing(world: World) -> list[GenerationRequest]:
    """Two that fit into few pages when they begin, and do not when they end."""
    return [world.request(PROMPT[start:], max_tokens=100) for start in (0, 9)]


async def alone(world: World, asked: list[GenerationRequest], **options: Any) -> list[Answer]:
    async with world.engine(**options) as engine:
        return await one_by_one(engine, asked)


async def together(world: World, asked: list[GenerationRequest], **options: Any) -> tuple[list[Answer], int]:
    """And how often one was preempted."""
    async with world.engine(**options) as engine:
        return await answers(engine, asked), engine.stats().preemptions


@pytest.fixture(scope="module")
def routed(world: World) -> list[Answer]:
    return asyncio.run(alone(world, requests(world), **SQRT))


@pytest.fixture(scope="module")
def full(world: World) -> list[Answer]:
    return asyncio.run(alone(world, requests(world)))


@pytest.mark.parametrize("step_tokens", [19, 100])
def test_any_chunks_and_batches_give_the_same_answers(world: World, routed: list[Answer], step_tokens: int) -> None:
    found, _ = asyncio.run(together(world, requests(world), **SQRT, step_tokens=step_tokens, busy_step_tokens=40))
    assert_same(found, routed)


def test_preempted_generations_start_over_to_the_same_end(world: World) -> None:
    found, preemptions = asyncio.run(together(world, growing(world), **SQRT, pages=62))
    assert preemptions > 0
    assert_same(found, asyncio.run(alone(world, growing(world), **SQRT)))


def test_long_contexts_are_routed_and_short_ones_are_not(routed: list[Answer], full: list[Answer]) -> None:
    assert_same(routed[3:], full[3:])
    for one, other in zip(routed[:2], full[:2], strict=True):
        assert flat(one.logprobs) != pytest.approx(flat(other.logprobs), abs=1e-3)


@pytest.mark.parametrize("enough", [{"attention_blocks": 1000}, {"attention_threshold": 1024}])
def test_enough_is_full_attention(world: World, full: list[Answer], enough: dict[str, int]) -> None:
    found, _ = asyncio.run(together(world, requests(world), **{**SQRT, **enough}))
    assert_same(found, full)


def test_with_the_compiled_kernels(wide: World) -> None:
    """In bfloat16, so what is compared is the same work: enough blocks are full attention to the bit, few are not; in
    chunks, token by token, and with facts in either kind of pages."""
    served: dict[str, Any] = {"dtype": "bfloat16", "kernels": "native", "step_tokens": 130}
    for bits in (16, 8):
        kinds: list[dict[str, Any]] = [{}, {**SQRT, "attention_blocks": 1000}, SQRT, SQRT]
        full, enough, few, again = (
            asyncio.run(alone(wide, requests(wide), **served, **kind, page_bits=bits)) for kind in kinds
        )
        assert enough == full
        assert few[3] == full[3], "what is short sees everything"
        assert few[0].logprobs != full[0].logprobs
        assert all(0 < share < 1 for share in few[1].attention or ())
        assert again == few


def test_a_scored_prompt(world: World) -> None:
    """Log probabilities of the prompt's own tokens, in whatever chunks."""

    async def scored(step_tokens: int) -> list[Answer]:
        asked = world.request(PROMPT, FACTS[1], max_tokens=1, prompt_logprobs=1)
        return await alone(world, [asked], **SQRT, step_tokens=step_tokens)

    (one,), (other,) = (asyncio.run(scored(step)) for step in (130, 256))
    assert flat(one.prompt_logprobs or ()) == pytest.approx(flat(other.prompt_logprobs or ()), abs=1e-5)
    assert len(one.prompt_logprobs or ()) > len(PROMPT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attention": "sqrt", "attention_blocks": 0}, "attention_blocks must be above 0"),
        ({"attention": "full", "attention_threshold": 9}, "are of sqrt attention, and this is full"),
        ({"attention_blocks": 9}, "are of sqrt attention, and this is full"),
        ({**SQRT, "max_fact_tokens": 300}, "max_fact_tokens: facts of 300 tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(world: World, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        world.start(**options)


def test_a_model_may_be_made_for_it() -> None:
    native = tiny_config(attention="sqrt", attention_blocks=3, attention_threshold=500)
    assert EngineOptions().configured(native) == native
    assert EngineOptions(attention="full").configured(native).attention == "full"
    assert EngineOptions(attention_threshold=700).configured(native).attention_threshold == 700
    assert KANConfig.from_json(native.to_json()) == native
