"""What attention is told of a step, whatever computes it: whose rows, in which pages. Who sees whom: `kan/patterns.py`.

Eq. 1 is softmax((Q Kᵀ + φ) / √d) V. A sequence's columns are the tokens of its pages: those of the mounted parts
(preamble and facts), then its context. Nothing here is laid out for a processor: that is the kernels' (`kan/kernels/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAGE_SIZE = 16
"""Tokens per page."""


def pages_for(tokens: int, per_page: int = PAGE_SIZE) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // per_page)


def slot_of(pages: Sequence[int], place: int) -> int:
    """Where in a cache the token at `place` of these pages lies: page · PAGE_SIZE + offset."""
    return pages[place // PAGE_SIZE] * PAGE_SIZE + place % PAGE_SIZE


@dataclass(frozen=True, eq=False)
class Prefix:
    """Shared, published pages in front of a sequence's own: preamble, then facts. Every part begins a page.

    pages      of all parts, one after the other
    lengths    tokens of each part; the rest of its last page is padding
    phi        [layers, H, parts] in q·k units (Eq. 1 divides by √d), 0 for the preamble; None for no bias
    per_page   tokens that a page of each part takes: PAGE_SIZE, or a multiple of it if its pages are small
               (`kan/kernels/small_pages.py`); empty: PAGE_SIZE for all
    """

    pages: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    phi: Tensor | None = None
    per_page: tuple[int, ...] = ()

    @property
    def columns(self) -> int:
        """Tokens and padding."""
        return len(self.table) * PAGE_SIZE

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """[blocks, 4]: PAGE_SIZE tokens make a block. Of each its number (page · blocks in a page of its kind + place
        in the page), how many tokens it holds, which part they belong to, and 1 if its page is small."""
        sizes = self.per_page or (PAGE_SIZE,) * len(self.lengths)
        parts = list(zip(self.lengths, sizes, strict=True))
        if sum(pages_for(length, size) for length, size in parts) != len(self.pages):
            raise ValueError("a prefix has as many pages as its parts fill")
        rows: list[tuple[int, int, int, int]] = []
        pages = iter(self.pages)
        for part, (length, size) in enumerate(parts):
            for start in range(0, length, size):
                first = next(pages) * (size // PAGE_SIZE)
                filled = range(start, min(start + size, length), PAGE_SIZE)
                rows += [
                    (first + block, min(PAGE_SIZE, length - token), part, int(size > PAGE_SIZE))
                    for block, token in enumerate(filled)
                ]
        return np.array(rows, np.int64).reshape(-1, 4)


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """The next `count` tokens of one sequence, behind `computed` of its context that are in the cache.

    pages   the context's own, in order; there may be more than it fills
    """

    prefix: Prefix
    pages: Sequence[int]
    computed: int
    count: int

    @property
    def context(self) -> Sequence[int]:
        """Those of `pages` that hold something once these rows are in the cache."""
        return self.pages[: pages_for(self.computed + self.count)]

    @property
    def written(self) -> Sequence[int]:
        """Those of `pages` that these rows are written to."""
        return self.context[self.computed // PAGE_SIZE :]

    @property
    def slots(self) -> list[int]:
        """Where each row's K and V go."""
        places = range(self.computed, self.computed + self.count)
        return [slot_of(self.pages, place) for place in places]


def phi_of(sequences: Sequence[SequenceRows]) -> Tensor | None:
    """φ of all parts of all sequences, one after the other: [layers, H, parts]. None if there is no bias at all."""
    prefixes = [one.prefix for one in sequences]
    known = next((prefix.phi for prefix in prefixes if prefix.phi is not None), None)
    if known is None:
        return None
    shape = known.shape[:2]
    each = [known.new_zeros(*shape, len(one.lengths)) if one.phi is None else one.phi for one in prefixes]
    return torch.cat(each, dim=2)
