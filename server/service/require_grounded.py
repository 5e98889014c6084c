"""`knowledge.require_grounded`: an answer that no mounted fact supports is withheld, and a refusal given instead.

Whether an answer is grounded is known at its end (what it says is part of it), so it is held back until then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from server.engine.protocol import TokenChunk

REFUSAL = "The knowledge base has no fact that answers this."

Numbered = tuple[int, TokenChunk]
"""(choice, chunk)"""


async def require_grounded(
    chunks: AsyncGenerator[Numbered, None], score: Callable[[int], float], threshold: float
) -> AsyncGenerator[Numbered, None]:
    """The chunks of each choice, once it has ended: as they were, or a refusal in their place.

    `score`: of a choice that has ended, how likely it is grounded, in [0, 1].
    """
    held: dict[int, list[TokenChunk]] = {}
    async with aclosing(chunks):
        async for number, chunk in chunks:
            held.setdefault(number, []).append(chunk)
            if chunk.finish_reason is None:
                continue
            answer = held.pop(number)
            for one in answer if score(number) >= threshold else [_refusal(chunk)]:
                yield number, one


def _refusal(last: TokenChunk) -> TokenChunk:
    """In place of a choice whose last chunk this is. What was attended to is still told."""
    return replace(last, text=REFUSAL, token_ids=(), logprobs=None, finish_reason="stop")


async def nothing_mounted() -> AsyncGenerator[TokenChunk, None]:
    """The stream of a choice that no fact can support: the model need not be asked."""
    yield TokenChunk(text=REFUSAL, token_ids=(), finish_reason="stop", attention=())
