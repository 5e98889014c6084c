"""What the compiled attention is told of a step, made once for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan.attention import PAGE_SIZE, SequenceRows, phi_of
from kan.kernels.paged_cache import slots_of
from kan.kernels.small_pages import CacheLayer
from kan.patterns import Pattern, causal


class Compiled(Protocol):
    """The functions of `NativeKernels` that are needed here."""

    def attention(
        self, q: Tensor, cache: CacheLayer, sequences: Tensor, table: Tensor, phi: Tensor | None, mass: Tensor
    ) -> Tensor: ...

    def rotate_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, kv: Tensor) -> Tensor: ...


class NativeAttention:
    """`PagedAttention` of the compiled library, which knows the causal pattern only."""

    def __init__(
        self, compiled: Compiled, layers: Sequence[CacheLayer], pattern: Pattern, sequences: Sequence[SequenceRows]
    ) -> None:
        assert pattern is causal, "the library computes no other pattern"
        self._compiled = compiled
        self._layers = layers
        self._slots = slots_of(sequences)
        parts = list(accumulate((len(one.prefix.lengths) for one in sequences), initial=0))
        self._sequences, self._table = _tables(sequences, parts)
        self._phi = phi_of(sequences)
        self._mass = torch.zeros(parts[-1])
        self.masses = [self._mass[first:end] for first, end in pairwise(parts)]

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cache = self._layers[layer]
        queries = self._compiled.rotate_and_store(qkv, cos, sin, self._slots, cache.kv)
        phi = None if self._phi is None else self._phi[layer]
        return self._compiled.attention(queries, cache, self._sequences, self._table, phi, self._mass).flatten(1)


def _tables(sequences: Sequence[SequenceRows], parts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`Sequence` [S, 6] and `Block` [B, 4] of c/attention.c. `parts`: the number of each sequence's first part."""
    described, blocks = [], []
    first_query = first_block = 0
    for one, first_part in zip(sequences, parts, strict=False):
        mounted, count = len(one.prefix.table), len(one.prefix.table) + len(one.context)
        described.append((first_query, one.count, first_block, count, mounted, one.computed))
        blocks.append(_blocks(one, first_part))
        first_query += one.count
        first_block += count
    return torch.tensor(described, dtype=torch.int64), torch.from_numpy(np.concatenate(blocks))


def _blocks(one: SequenceRows, first_part: int) -> NDArray[np.int64]:
    """[B, 4] for one sequence."""
    mounted = len(one.prefix.table)
    blocks = np.full((mounted + len(one.context), 4), (0, PAGE_SIZE, -1, 0))
    blocks[:mounted] = one.prefix.table
    blocks[:mounted, 2] += first_part
    blocks[mounted:, 0] = one.context
    return blocks
