"""Who sees whom: the patterns of attention over a context. Mounted tokens are seen by every row, whatever the pattern.

A pattern speaks of places in the context, never of how many tokens there will be in the end: so a prompt that is
computed at once, in chunks or token by token gives the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.config import KANConfig

SMALLEST_BLOCK = 4 * PAGE_SIZE
"""Tokens. Smaller blocks would be needed below 4,096 tokens only, where everything can as well be seen."""

PlacePattern: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Which context tokens a row sees: places in the context of queries and of keys -> bool, broadcast over both."""


def causal(query: Tensor, key: Tensor) -> Tensor:
    """Everything up to the row itself."""
    return key <= query


@dataclass(frozen=True, slots=True)
class SqrtBlocks:
    """A row sees the first block of its context, its own and the one before, and of those between them the `chosen`
    ones that its queries point to.

    The context lies in blocks of B tokens, B being a function of the row's place t: the largest of `smallest`,
    2·`smallest`, 4·`smallest`, … whose square is at most t, and at least `smallest`. So B is about √t, and all blocks
    of one size divide those of the next.

    The query heads of a group choose together: the blocks with the greatest (Σ_h q_h) · k̄_b, where k̄_b is the mean of
    the block's keys after RoPE. So what is compared is the mean of the scores that attention would compute.

    `threshold`   rows before this place see everything; so do all that have no more than `chosen` blocks to choose from
    """

    chosen: int
    threshold: int
    smallest: int = SMALLEST_BLOCK

    def __post_init__(self) -> None:
        pages = self.smallest // PAGE_SIZE
        if self.chosen < 1 or self.threshold < 0:
            raise ValueError(f"at least one block is chosen, from a place on that is no less than 0, not {self}")
        if self.smallest % PAGE_SIZE or pages < 1 or pages & (pages - 1):
            raise ValueError(f"the smallest block is a power of two of pages, not {self.smallest} tokens")

    @property
    def first_routed(self) -> int:
        """The first place whose row may not see everything before it."""
        return max(self.threshold, (self.chosen + 3) * self.smallest)

    def level(self, place: int) -> int | None:
        """j of the block size `smallest`·2^j for a row at this place; None if it sees everything."""
        level = self.levels(place + 1) - 1
        between = place // self.block(level) - 2
        return level if place >= self.threshold and between > self.chosen else None

    def block(self, level: int) -> int:
        """Tokens of a block."""
        return self.smallest << level

    def levels(self, tokens: int) -> int:
        """How many sizes of blocks the rows of a context of so many tokens have."""
        count = 1
        while self.block(count) ** 2 < tokens:
            count += 1
        return count

    def spans(self, first: int, end: int) -> list[tuple[int, int, int | None]]:
        """Rows first … end-1, cut where the level changes: (first, end, level) of each."""
        levels = range(self.levels(end))
        edges = {self.block(level) ** 2 for level in levels}
        edges |= {(self.chosen + 3) * self.block(level) for level in levels} | {self.threshold}
        cuts = [first, *sorted(edge for edge in edges if first < edge < end), end]
        return [(start, stop, self.level(start)) for start, stop in pairwise(cuts)]


Pattern: TypeAlias = PlacePattern | SqrtBlocks


def pattern_of(config: KANConfig) -> Pattern:
    """By `KANConfig.attention`."""
    if config.attention == "sqrt":
        return SqrtBlocks(config.attention_blocks, config.attention_threshold)
    return causal
