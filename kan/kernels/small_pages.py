"""Small pages: keys and values in 8 bits, so that a page of the cache takes as many more tokens as they take less.

Keys have a scale for each channel of a page, values one for each token: a channel of keys that is large is so in all
tokens, while values differ from token to token. Keys are stored as attention wants them, after the adapter and RoPE.
RoPE mixes channels i and i + d/2, and so their sizes: the error of q·k is at most √2 of what it would be before it
(root mean square), and no kernel need rotate keys anew for every question.

A block is PAGE_SIZE tokens of a small page; a page of the cache holds as many as its numbers have bytes. Both kinds of
numbers lie as the compiled attention multiplies them: pairs of neighbours along the axis that is summed over.

    keys     [d / 2, PAGE_SIZE, 2]
    values   [PAGE_SIZE / 2, d, 2]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, pages_for
from kan.quantization import SCALE_TYPE, dequantize, quantize


def tokens_per_small_page(dtype: torch.dtype) -> int:
    """In a cache of numbers of this type."""
    return PAGE_SIZE * dtype.itemsize


def scale_bytes(head_dim: int, dtype: torch.dtype) -> int:
    """Of the scales of one page, for one layer and head."""
    return (head_dim + tokens_per_small_page(dtype)) * SCALE_TYPE.itemsize


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """A layer of a cache, and the scales of those of its pages that are small.

    kv             [2, H_kv, pages, PAGE_SIZE, d]; its memory holds the numbers of either kind
    key_scales     [H_kv, pages, d]
    value_scales   [H_kv, pages, tokens of a small page]
    """

    kv: Tensor
    key_scales: Tensor
    value_scales: Tensor

    @classmethod
    def of(cls, kv: Tensor) -> CacheLayer:
        """With scales that are zero; memory is taken when they are written."""
        _, heads, pages, _, d = kv.shape
        return cls(kv, _zeros(heads, pages, d), _zeros(heads, pages, tokens_per_small_page(kv.dtype)))

    def small_blocks(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """blocks [N] -> keys and values [H_kv, N, PAGE_SIZE, d] in the cache's type."""
        _, heads, _, _, d = self.kv.shape
        in_page = self.kv.dtype.itemsize
        page = blocks // in_page
        numbers = self.kv.view(torch.int8).view(2, heads, -1, PAGE_SIZE * d)[:, :, blocks]
        keys = numbers[0].view(heads, -1, d // 2, PAGE_SIZE, 2).transpose(2, 3).reshape(heads, -1, PAGE_SIZE, d)
        values = numbers[1].view(heads, -1, PAGE_SIZE // 2, d, 2).transpose(3, 4).reshape(heads, -1, PAGE_SIZE, d)
        value_scales = self.value_scales.view(heads, -1, PAGE_SIZE)[:, blocks].unsqueeze(3)
        key_scales = self.key_scales[:, page].unsqueeze(2)
        return dequantize(keys, key_scales, self.kv.dtype), dequantize(values, value_scales, self.kv.dtype)


def write_small(layers: Sequence[CacheLayer], pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
    """Fill pages of all layers with keys and values [layers, tokens, H_kv, d], rounded to 8 bits."""
    per_page, held = tokens_per_small_page(layers[0].kv.dtype), len(pages)
    depth, count, heads, d = keys.shape
    assert held == pages_for(count, per_page), "as many pages as they take"
    padding = (0, 0, 0, 0, 0, held * per_page - count)
    keys, values = (F.pad(x, padding).view(depth, held, per_page, heads, d) for x in (keys, values))
    k, key_scales = quantize(keys, 2)
    v, value_scales = quantize(values, 4)
    k = k.view(depth, held, -1, PAGE_SIZE, heads, d // 2, 2).permute(0, 4, 1, 2, 5, 3, 6)
    v = v.view(depth, held, -1, PAGE_SIZE // 2, 2, heads, d).permute(0, 5, 1, 2, 3, 6, 4)
    numbers = torch.stack((k.reshape(depth, heads, held, -1), v.reshape(depth, heads, held, -1)), dim=1)
    of_keys, of_values = key_scales.squeeze(2).transpose(1, 2), value_scales.squeeze(4).permute(0, 3, 1, 2)
    index = torch.tensor(pages)
    for layer, n, ks, vs in zip(layers, numbers, of_keys, of_values, strict=True):
        layer.kv.view(torch.int8).flatten(3).index_copy_(2, index, n)
        layer.key_scales.index_copy_(1, index, ks)
        layer.value_scales.index_copy_(1, index, vs)


def _zeros(*shape: int) -> Tensor:
    return torch.from_numpy(np.zeros(shape, np.int16)).view(SCALE_TYPE)
