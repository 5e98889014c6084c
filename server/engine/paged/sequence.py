"""Token sequences that move through the model: generations for clients, and facts being encoded into pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, Prefix, pages_for
from kan.page_pool import PagePool
from server.engine.decoding.choice import Choice
from server.engine.decoding.sampling import SampledToken
from server.engine.protocol import FactTokens, GenerationRequest, TokenChunk


def prefix_of(parts: Iterable[tuple[list[int], int]], phi: Tensor | None = None, per_page: int = PAGE_SIZE) -> Prefix:
    """Of (pages, tokens) of preamble and facts. phi [layers, H, facts] or None; per_page: tokens of a fact in each."""
    laid = list(parts)
    pages = tuple(page for part_pages, _ in laid for page in part_pages)
    return Prefix(
        pages,
        tuple(tokens for _, tokens in laid),
        None if phi is None else F.pad(phi, (1, 0)),
        (PAGE_SIZE, *[per_page] * (len(laid) - 1)),
    )


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, how many of them are in the cache, and where. `first_position` is the position of token 0."""

    tokens: list[int]
    first_position: int = 0
    prefix: Prefix = field(default_factory=Prefix)
    pages: list[int] = field(default_factory=list)
    computed: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def columns(self) -> int:
        return self.prefix.columns + len(self.pages) * PAGE_SIZE

    def missing_pages(self, count: int) -> int:
        """Pages to add before `count` more tokens can be computed."""
        return max(0, pages_for(self.computed + count) - len(self.pages))

    def drop_pages(self, pool: PagePool) -> None:
        """Give everything back; the tokens stay, to be computed again."""
        pool.release(self.pages)
        pool.release(self.prefix.pages)
        self.pages, self.prefix, self.computed = [], Prefix(), 0


Waiter = Callable[[Exception | None], None]
"""Is told when a fact's pages are there, or why they cannot be."""


@dataclass(slots=True, eq=False)
class Encoding(Sequence):
    """A fact on its way into knowledge pages, behind the preamble and blind to every other fact."""

    fact: FactTokens = field(default_factory=lambda: FactTokens("", ()))
    waiters: list[Waiter] = field(default_factory=list)
    bulk: bool = False
    """Everything else goes first."""
    captured: list[list[tuple[Tensor, Tensor]]] = field(default_factory=list)
    """Per chunk, per layer: keys before RoPE and values."""


class Stage(Enum):
    """Where a generation is. Preemption leads from RUNNING back to WAITING."""

    SUBMITTED = "submitted"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Generation(Sequence):
    """One client's request and everything that must survive its preemption."""

    __slots__ = ("arrived", "attended", "choice", "mass", "mount_counted", "queue_seconds", "request", "stage")

    def __init__(self, request: GenerationRequest, choice: Choice) -> None:
        super().__init__(list(request.prompt))
        self.request = request
        self.choice = choice
        self.stage = Stage.SUBMITTED
        self.arrived = time.monotonic()
        self.queue_seconds: float | None = None
        """Until it first ran."""
        self.mass: Tensor | None = None
        """[parts] attention on each part of the prefix, summed over `attended` tokens (and layers and heads)."""
        self.attended = 0
        self.mount_counted = False

    @property
    def fact_keys(self) -> list[str]:
        return [mounted.fact.key for mounted in self.request.facts]

    def advance(self, token: SampledToken, layers_and_heads: int) -> TokenChunk:
        """Append the token and make its chunk: the first one tells of the queue, the last one of attention."""
        first = not self.choice.generated
        self.tokens.append(token.token_id)
        chunk = self.choice.advance(token)
        if first:
            chunk = replace(chunk, queue_seconds=self.queue_seconds)
        if chunk.finish_reason is not None:
            chunk = replace(chunk, attention=self._attention_shares(layers_and_heads))
        return chunk

    def attend(self, mass: Tensor) -> None:
        """Count one generated token's attention [parts] on the prefix."""
        self.mass = mass if self.mass is None else self.mass + mass
        self.attended += 1

    def forget_attention(self) -> None:
        """Start the count over, as the prefix does after preemption."""
        self.mass, self.attended = None, 0

    def _attention_shares(self, layers_and_heads: int) -> tuple[float, ...]:
        """Mean share of attention on each mounted fact; the preamble is the first part and is left out."""
        if self.mass is None or not self.attended:
            return (0.0,) * len(self.request.facts)
        shares: list[float] = (self.mass / (self.attended * layers_and_heads)).tolist()
        return tuple(shares[1:])
