"""Small pages: keys and values in 8 or 4 bits, so that a page of the cache takes as many more tokens as they take less.

What a group of numbers has in common, its steps, is as `kan.quantization.GROUPINGS` says. Keys are stored as attention
wants them, after the adapter and RoPE. RoPE mixes channels i and i + d/2, and so their sizes: the error of q·k is at
most √2 of what it would be before it (root mean square), and no kernel need rotate keys anew for every question.

A block is PAGE_SIZE tokens of a small page; a page of the cache holds as many as its memory has room for. Both kinds of
numbers lie as the compiled attention multiplies them: pairs of neighbours along the axis that is summed over.

    keys     [d / 2, PAGE_SIZE, 2]
    values   [PAGE_SIZE / 2, d, 2]

Those of 4 bits lie in the same order, each LANES of them packed with the LANES behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, pages_for
from kan.quantization import GROUPINGS, SCALE_TYPE, Bits, Grouping, pack_nibbles, unpack_nibbles

LANES = 16
"""Numbers in a vector of the compiled attention."""


def tokens_per_small_page(dtype: torch.dtype, bits: Bits) -> int:
    """In a cache of numbers of this type."""
    return PAGE_SIZE * dtype.itemsize * 8 // bits


def scale_bytes(head_dim: int, dtype: torch.dtype, bits: Bits) -> int:
    """Of the steps of one page, for one layer and head."""
    tokens, grouping = tokens_per_small_page(dtype, bits), GROUPINGS[bits]
    of_keys = grouping.key_groups(tokens) * head_dim
    of_values = tokens * grouping.value_groups(head_dim)
    return (of_keys + of_values) * grouping.parts * SCALE_TYPE.itemsize


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """A layer of a cache, and the steps of those of its pages that are small.

    kv            [2, H_kv, pages, PAGE_SIZE, d]; its memory holds the numbers of either kind
    key_steps     [H_kv, pages, groups of keys in a page, parts, d]
    value_steps   [H_kv, blocks, groups of values, parts, PAGE_SIZE]
    bits          of small pages
    """

    kv: Tensor
    key_steps: Tensor
    value_steps: Tensor
    bits: Bits

    @classmethod
    def of(cls, kv: Tensor, bits: Bits = 8) -> CacheLayer:
        """With steps that are zero; memory is taken when they are written."""
        of_keys, of_values = step_shapes(kv, bits)
        return cls(kv, _zeros(of_keys), _zeros(of_values), bits)

    @property
    def grouping(self) -> Grouping:
        return GROUPINGS[self.bits]

    @property
    def in_page(self) -> int:
        """Blocks of a small page."""
        return tokens_per_small_page(self.kv.dtype, self.bits) // PAGE_SIZE

    def small_blocks(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """blocks [N] -> keys and values [H_kv, N, PAGE_SIZE, d] in the cache's type."""
        _, heads, _, _, d = self.kv.shape
        numbers = self._numbers()[:, :, blocks]
        if self.bits == 4:
            numbers = unpack_nibbles(numbers.view(2, heads, len(blocks), -1, LANES), 4)
        keys = numbers[0].reshape(heads, -1, d // 2, PAGE_SIZE, 2).transpose(2, 3).reshape(heads, -1, PAGE_SIZE, 1, d)
        values = numbers[1].reshape(heads, -1, PAGE_SIZE // 2, d, 2).transpose(3, 4)
        key_steps = self.key_steps.flatten(1, 2)[:, blocks // self._blocks_of_keys].permute(2, 0, 1, 3)
        value_steps = self.value_steps[:, blocks].permute(3, 0, 1, 4, 2)
        dtype, grouping = self.kv.dtype, self.grouping
        return (
            grouping.widen_keys(keys, key_steps[:, :, :, None, None], dtype).squeeze(3),
            grouping.widen_values(values.reshape(heads, -1, PAGE_SIZE, d), value_steps, dtype),
        )

    def write(self, pages: Tensor, numbers: Tensor, key_steps: Tensor, value_steps: Tensor) -> None:
        """Fill pages [P] with numbers [2, H_kv, P, bytes of a page] and their steps, laid out as here."""
        _, heads, total = self.kv.shape[:3]
        self._numbers().view(2, heads, total, -1).index_copy_(2, pages, numbers)
        self.key_steps.index_copy_(1, pages, key_steps)
        self.value_steps.view(heads, total, -1).index_copy_(1, pages, value_steps.flatten(2))

    @property
    def _blocks_of_keys(self) -> int:
        """That have steps in common."""
        return self.in_page // self.key_steps.shape[2]

    def _numbers(self) -> Tensor:
        """[2, H_kv, blocks, bytes]"""
        kind = torch.int8 if self.bits == 8 else torch.uint8
        return self.kv.view(kind).view(2, self.kv.shape[1], self.value_steps.shape[1], -1)


def step_shapes(kv: Tensor, bits: Bits) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the steps of keys and of values beside `kv`."""
    _, heads, pages, _, d = kv.shape
    tokens, grouping = tokens_per_small_page(kv.dtype, bits), GROUPINGS[bits]
    return (
        (heads, pages, grouping.key_groups(tokens), grouping.parts, d),
        (heads, pages * tokens // PAGE_SIZE, grouping.value_groups(d), grouping.parts, PAGE_SIZE),
    )


def write_small(layers: Sequence[CacheLayer], pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
    """Fill pages of all layers with keys and values [layers, tokens, H_kv, d], rounded to the cache's bits."""
    bits, grouping = layers[0].bits, layers[0].grouping
    per_page, held = tokens_per_small_page(layers[0].kv.dtype, bits), len(pages)
    depth, count, heads, d = keys.shape
    assert held == pages_for(count, per_page), "as many pages as they take"
    in_a_page = grouping.key_groups(per_page)
    if grouping.tokens is None:
        grouping = replace(grouping, tokens=min(count, per_page))
    (k, key_steps), (v, value_steps) = grouping.keys(keys), grouping.values(values)
    # A page may be much longer than the fact: what is behind it is only zeros, of which none is rounded.
    missing = held * per_page - count
    k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (k, v))
    key_steps = F.pad(key_steps, (0, 0, 0, 0, 0, held * in_a_page - key_steps.shape[2]))
    value_steps = F.pad(value_steps, (0, 0, 0, 0, 0, missing))
    k = k.view(depth, held, -1, PAGE_SIZE, heads, d // 2, 2).permute(0, 4, 1, 2, 5, 3, 6)
    v = v.view(depth, held, -1, PAGE_SIZE // 2, 2, heads, d).permute(0, 5, 1, 2, 3, 6, 4)
    numbers = torch.stack((k.reshape(depth, heads, held, -1), v.reshape(depth, heads, held, -1)), dim=1)
    if bits == 4:
        numbers = pack_nibbles(torch.unflatten(numbers, 4, (-1, 2 * LANES)), 5).flatten(4)
    of_keys = torch.unflatten(key_steps, 2, (held, in_a_page)).permute(1, 4, 2, 3, 0, 5)
    of_values = torch.unflatten(value_steps, 2, (held, -1, PAGE_SIZE)).permute(1, 5, 2, 3, 6, 0, 4)
    index = torch.tensor(pages)
    for layer, n, ks, vs in zip(layers, numbers, of_keys, of_values, strict=True):
        layer.write(index, n, ks, vs)


def _zeros(shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.zeros(shape, np.int16)).view(SCALE_TYPE)
