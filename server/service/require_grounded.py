"""`knowledge.require_grounded`: an answer that no mounted fact supports is withheld, and a refusal given instead.

Whether an answer is grounded is known at its end (the attention on facts is part of it), so it is held back until then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from server.engine.protocol import TokenChunk

REFUSAL = "The knowledge base has no fact that answers this."

Numbered = tuple[int, TokenChunk]
"""(choice, chunk)"""
Score = Callable[[int, Sequence[tuple[float, ...]]], float]
"""(prompt, attention shares of its choices) -> how likely a mounted fact answers it, in [0, 1]."""


async def require_grounded(
    chunks: AsyncGenerator[Numbered, None], choices: int, score: Score, threshold: float
) -> AsyncGenerator[Numbered, None]:
    """The chunks of each prompt, once all its `choices` have ended: as they were, or a refusal in their place."""
    held: dict[int, list[Numbered]] = {}
    shares: dict[int, list[tuple[float, ...]]] = {}
    ended: dict[int, int] = {}
    async with aclosing(chunks):
        async for number, chunk in chunks:
            prompt = number // choices
            held.setdefault(prompt, []).append((number, chunk))
            if chunk.finish_reason is None:
                continue
            ended[prompt] = ended.get(prompt, 0) + 1
            shares.setdefault(prompt, []).append(chunk.attention or ())
            if ended[prompt] < choices:
                continue
            grounded = score(prompt, shares[prompt]) >= threshold
            for one in held.pop(prompt):
                if grounded:
                    yield one
                elif one[1].finish_reason is not None:
                    yield one[0], _refusal(one[1])


def _refusal(last: TokenChunk) -> TokenChunk:
    """In place of a choice whose last chunk this is. What was attended to is still told."""
    return replace(last, text=REFUSAL, token_ids=(), logprobs=None, finish_reason="stop")


async def nothing_mounted() -> AsyncGenerator[TokenChunk, None]:
    """The stream of a choice that no fact can support: the model need not be asked."""
    yield TokenChunk(text=REFUSAL, token_ids=(), finish_reason="stop", attention=())
