"""Who sees whom: the patterns of attention over a context. Mounted tokens are seen by every row, whatever the pattern.

A pattern speaks of places in the context, never of how many tokens there will be in the end: so a prompt that is
computed at once, in chunks or token by token gives the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple, TypeAlias

from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.config import KANConfig

SMALLEST_BLOCK = 4 * PAGE_SIZE
"""Tokens. Smaller blocks would be needed below 4,096 tokens only, where everything can as well be seen."""

RISE = 8
"""Steps in which the number of chosen blocks grows behind the threshold."""

PlacePattern: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Which context tokens a row sees: places in the context of queries and of keys -> bool, broadcast over both."""


def causal(query: Tensor, key: Tensor) -> Tensor:
    """Everything up to the row itself."""
    return key <= query


class Way(NamedTuple):
    """How a row chooses: among blocks of this level, so many of them."""

    level: int
    chosen: int


@dataclass(frozen=True, slots=True)
class SqrtBlocks:
    """A row sees the first block of its context, its own and the one before, and of those between them the k that its
    queries point to.

    The context lies in blocks of B tokens, B being a function of the row's place t: the largest of `smallest`,
    2·`smallest`, 4·`smallest`, … whose square is at most t, and at least `smallest`. So B is about √t, and all blocks
    of one size divide those of the next.

    The query heads of a group choose together: the blocks with the greatest (Σ_h q_h) · k̄_b, where k̄_b is the mean of
    the block's keys after RoPE. So what is compared is the mean of the scores that attention would compute.

    k is `chosen` for the smallest blocks, and halves when they double: chosen are always as many tokens, so what grows
    as √t is how many blocks there are to choose from. Just behind the threshold, where that many tokens would be all of
    them, k rises from two fifths of it, in steps, to the whole at one and a half times the threshold.

    `threshold`   rows before this place see everything; so do all that have no more than k blocks to choose from
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
        edges = _edges(self, self.levels(self.threshold + (self.chosen + 3) * self.smallest) + 1)
        return next(place for place in edges if self.way(place))

    def way(self, place: int) -> Way | None:
        """Of a row at this place; None if it sees everything."""
        if place < self.threshold:
            return None
        level = self.levels(place + 1) - 1
        chosen = self._chosen(level, self._steps(place))
        return Way(level, chosen) if place // self.block(level) - 2 > chosen else None

    def block(self, level: int) -> int:
        """Tokens of a block."""
        return self.smallest << level

    def levels(self, tokens: int) -> int:
        """How many sizes of blocks the rows of a context of so many tokens have."""
        count = 1
        while self.block(count) ** 2 < tokens:
            count += 1
        return count

    def spans(self, first: int, end: int) -> list[tuple[int, int, Way | None]]:
        """Rows first … end-1, cut where their way changes: (first, end, way) of each."""
        if end == first + 1:  # decoding
            return [(first, end, self.way(first))]
        cuts = [first, *(edge for edge in _edges(self, self.levels(end)) if first < edge < end), end]
        pieces = [(start, stop, self.way(start)) for start, stop in pairwise(cuts)]
        alike = [list(some) for _, some in groupby(pieces, key=lambda one: one[2])]
        return [(some[0][0], some[-1][1], some[0][2]) for some in alike]

    def _steps(self, place: int) -> int:
        """How many of `RISE` the row has behind it."""
        step = self.threshold // (2 * RISE)
        return min(RISE, (place - self.threshold) // step) if step else RISE

    def _chosen(self, level: int, steps: int) -> int:
        """k"""
        return max(1, self.chosen * (2 * RISE + 3 * steps) // (5 * RISE) >> level)


@lru_cache(maxsize=64)
def _edges(pattern: SqrtBlocks, levels: int) -> tuple[int, ...]:
    """Places, ascending, where the way of rows may change, up to this many levels."""
    steps = range(RISE + 1)
    edges = {pattern.block(level) ** 2 for level in range(levels)}
    edges |= {pattern.threshold + step * (pattern.threshold // (2 * RISE)) for step in steps}
    edges |= {(pattern._chosen(level, step) + 3) * pattern.block(level) for level in range(levels) for step in steps}
    return tuple(sorted(edges))


Pattern: TypeAlias = PlacePattern | SqrtBlocks


def pattern_of(config: KANConfig) -> Pattern:
    """By `KANConfig.attention`."""
    if config.attention == "sqrt":
        return SqrtBlocks(config.attention_blocks, config.attention_threshold)
    return causal
