"""What the compiled attention is told of a step, made once for all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan.attention import PAGE_SIZE, SequenceRows, pages_for, phi_of
from kan.kernels.block_means import BlockMeans
from kan.kernels.paged_cache import slots_of
from kan.kernels.small_pages import CacheLayer
from kan.patterns import Pattern, SqrtBlocks, Way, causal

EVERYTHING = Way(-1, 0)
"""The level of rows that see all before them; they choose none."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What rows that choose blocks choose from, in one layer.

    means      [levels, H_kv, pages, d] float32, as `BlockMeans` keeps them
    smallest   pages of a block of level 0
    """

    means: Tensor
    smallest: int


class Compiled(Protocol):
    """The functions of `NativeKernels` that are needed here."""

    def attention(
        self,
        q: Tensor,
        cache: CacheLayer,
        sequences: Tensor,
        table: Tensor,
        phi: Tensor | None,
        mass: Tensor,
        routing: Routing | None = None,
    ) -> Tensor: ...

    def rotate_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, kv: Tensor) -> Tensor: ...


class NativeAttention:
    """`PagedAttention` of the compiled library."""

    def __init__(
        self,
        compiled: Compiled,
        means: BlockMeans | None,
        layers: Sequence[CacheLayer],
        pattern: Pattern,
        sequences: Sequence[SequenceRows],
    ) -> None:
        """`means` are needed where the pattern is one of blocks."""
        assert pattern is causal or isinstance(pattern, SqrtBlocks), "the library computes no other pattern"
        self._compiled = compiled
        self._layers = layers
        self._pattern = pattern
        self._means = means
        self._slots = slots_of(sequences)
        self._completed = [] if means is None else means.completed(sequences)
        parts = list(accumulate((len(one.prefix.lengths) for one in sequences), initial=0))
        self._sequences, self._table = _tables(sequences, parts, pattern)
        self._phi = phi_of(sequences)
        self._mass = torch.zeros(parts[-1])
        self.masses = [self._mass[first:end] for first, end in pairwise(parts)]

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cache = self._layers[layer]
        queries = self._compiled.rotate_and_store(qkv, cos, sin, self._slots, cache.kv)
        phi = None if self._phi is None else self._phi[layer]
        routing = self._routing(layer, cache)
        return self._compiled.attention(queries, cache, self._sequences, self._table, phi, self._mass, routing).flatten(
            1
        )

    def _routing(self, layer: int, cache: CacheLayer) -> Routing | None:
        """With the means of the blocks that this step's rows complete."""
        if self._means is None or not isinstance(self._pattern, SqrtBlocks):
            return None
        self._means.refresh(layer, cache.kv, self._completed)
        return Routing(self._means.all_of(layer), self._pattern.smallest // PAGE_SIZE)


def _tables(sequences: Sequence[SequenceRows], parts: Sequence[int], pattern: Pattern) -> tuple[Tensor, Tensor]:
    """`Sequence` [S, 9] and `Block` [B, 4] of c/blocks.h. `parts`: the number of each sequence's first part."""
    described, blocks = [], []
    first_query = first_block = 0
    for one, first_part in zip(sequences, parts, strict=False):
        mounted, end = len(one.prefix.table), one.computed + one.count
        for first, stop, way in _spans(one, pattern):
            seen = mounted + pages_for(stop)
            described.append((first_query, stop - first, first_block, seen, mounted, first, *way, stop == end))
            first_query += stop - first
        blocks.append(_blocks(one, first_part))
        first_block += len(blocks[-1])
    return torch.tensor(described, dtype=torch.int64), torch.from_numpy(np.concatenate(blocks))


def _spans(one: SequenceRows, pattern: Pattern) -> Iterator[tuple[int, int, Way]]:
    """Places, cut where their way changes: (first, end, way) of each."""
    if not isinstance(pattern, SqrtBlocks):
        yield one.computed, one.computed + one.count, EVERYTHING
        return
    for first, stop, way in pattern.spans(one.computed, one.computed + one.count):
        yield first, stop, way or EVERYTHING


def _blocks(one: SequenceRows, first_part: int) -> NDArray[np.int64]:
    """[B, 4] for one sequence."""
    mounted, context = len(one.prefix.table), one.context
    blocks = np.full((mounted + len(context), 4), (0, 0, -1, 0))
    blocks[:mounted] = one.prefix.table
    blocks[:mounted, 2] += first_part
    blocks[mounted:, 0] = context
    blocks[mounted:, 1] = np.arange(len(context)) * PAGE_SIZE
    return blocks
