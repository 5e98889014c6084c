"""Whole answers from any engine, and how two of them compare."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.engine.protocol import Engine, GenerationRequest, TokenLogprob


@dataclass(frozen=True)
class Answer:
    """All chunks of one request, added up."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: str | None


async def answer(engine: Engine, request: GenerationRequest) -> Answer:
    chunks = [chunk async for chunk in engine.generate(request)]
    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return Answer(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.token_ids),
        tuple(one for chunk in chunks for one in chunk.logprobs or ()),
        chunks[-1].finish_reason,
    )


async def answers(engine: Engine, requests: Iterable[GenerationRequest], at_once: int = 8) -> list[Answer]:
    """In the order of the requests, some at the same time."""
    gate = asyncio.Semaphore(at_once)

    async def one(request: GenerationRequest) -> Answer:
        async with gate:
            return await answer(engine, request)

    return list(await asyncio.gather(*map(one, requests)))


def largest_difference(one: Sequence[Answer], other: Sequence[Answer]) -> float:
    """Of the log probabilities of the same tokens."""
    pairs = (
        abs(mine.logprob - theirs.logprob)
        for a, b in zip(one, other, strict=True)
        for mine, theirs in zip(a.logprobs, b.logprobs, strict=True)
    )
    return max(pairs)
