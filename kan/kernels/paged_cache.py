"""The cache in the memory of a CPU, as torch tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, SequenceRows
from kan.config import KANConfig
from kan.kernels.operations import PagedAttention
from kan.kernels.small_pages import CacheLayer, write_small
from kan.patterns import Pattern
from kan.quantization import Bits
from kan.rope import rotate

MakeAttention = Callable[[Sequence[CacheLayer], Pattern, Sequence[SequenceRows]], PagedAttention]
"""From the cache's layers, who sees whom, and the rows of a step."""


class PagedCache:
    """`Cache` of layers [2, H_kv, pages, PAGE_SIZE, d].

    Memory is taken when a page is first written. It comes from NumPy, which asks the system for huge pages: gathering
    scattered pages then misses the TLB much less often.
    """

    def __init__(
        self,
        config: KANConfig,
        pattern: Pattern,
        pages: int,
        dtype: torch.dtype,
        make_attention: MakeAttention,
        small_bits: Bits = 8,
    ) -> None:
        """`small_bits`: of those of its pages that are small."""
        shape = (2, config.num_kv_heads, pages, PAGE_SIZE, config.head_dim)
        # Zeroed: a masked column has weight 0, and 0 · NaN from stale memory would still be NaN.
        bytes_per_layer = math.prod(shape) * dtype.itemsize
        self._layers = [
            CacheLayer.of(torch.from_numpy(np.zeros(bytes_per_layer, np.uint8)).view(dtype).view(shape), small_bits)
            for _ in range(config.num_layers)
        ]
        self._pattern = pattern
        self._make_attention = make_attention
        self._once_small: set[int] = set()
        """Pages with bytes of small ones, among which there are NaN for whoever takes them for whole numbers."""

    def write(self, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        self._clear(pages)
        offsets = torch.arange(keys.shape[1])
        slots = torch.tensor(pages)[offsets // PAGE_SIZE] * PAGE_SIZE + offsets % PAGE_SIZE
        for layer, layer_keys, layer_values in zip(self._layers, keys, values, strict=True):
            _store(layer.kv, slots, layer_keys, layer_values)

    def write_small(self, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        self._once_small.update(pages)
        write_small(self._layers, pages, keys, values)

    def under(self, pattern: Pattern) -> PagedCache:
        """The same pages, looked at by another pattern: if this one's is of blocks, one with the same sizes of them."""
        other = copy.copy(self)
        other._pattern = pattern
        return other

    def attention(self, sequences: Sequence[SequenceRows]) -> PagedAttention:
        for one in sequences:
            self._clear(one.written)
        return self._make_attention(self._layers, self._pattern, sequences)

    def _clear(self, pages: Iterable[int]) -> None:
        """They are about to be written in whole numbers, perhaps not to their ends."""
        for page in self._once_small.intersection(pages):
            for layer in self._layers:
                layer.kv[:, :, page].zero_()
            self._once_small.discard(page)


def exact_type(dtype: torch.dtype) -> torch.dtype:
    """Of sums over numbers of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def gather_pages(kv: Tensor, pages: Tensor) -> Tensor:
    """kv [planes, H_kv, pages, PAGE_SIZE, d], pages [N], or [H_kv, N] where heads differ
    -> [planes · H_kv · N, PAGE_SIZE · d].

    As rows of one table, because an embedding look-up uses every core and index_select along an inner axis does not.
    """
    planes, heads, total = kv.shape[:3]
    rows = torch.arange(0, planes * heads * total, total).view(planes, heads, 1) + pages
    return F.embedding(rows.view(-1), kv.view(planes * heads * total, -1))


def slots_of(sequences: Sequence[SequenceRows]) -> Tensor:
    """[R] int64: where the rows of a step go."""
    return torch.tensor([slot for one in sequences for slot in one.slots], dtype=torch.int64)


def rotate_and_store(qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, kv: Tensor) -> Tensor:
    """qkv [R, H + 2·H_kv, d] -> rotated queries [R, H, d]; rotated keys and plain values go to kv at slots [R]."""
    kv_heads = kv.shape[1]
    rotated = rotate(qkv[:, :-kv_heads], cos, sin)
    _store(kv, slots, rotated[:, -kv_heads:], qkv[:, -kv_heads:])
    return rotated[:, :-kv_heads]


def _store(kv: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Write rotated keys and values, both [R, H_kv, d], into one layer's cache at slots [R]."""
    flat = kv.flatten(2, 3)
    flat[0].index_copy_(1, slots, keys.transpose(0, 1))
    flat[1].index_copy_(1, slots, values.transpose(0, 1))
