"""Eq. 1 written plainly, in float64: one sequence, one head and one row at a time. The truth for all other kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for, slot_of
from kan.kernels.paged_cache import rotate_and_store, slots_of
from kan.kernels.small_pages import CacheLayer
from kan.patterns import Pattern, SqrtBlocks


class ReferenceAttention:
    """`PagedAttention` by the formula."""

    def __init__(self, layers: Sequence[CacheLayer], pattern: Pattern, sequences: Sequence[SequenceRows]) -> None:
        self._layers = layers
        self._pattern = pattern
        self._sequences = sequences
        self.masses = [torch.zeros(len(one.prefix.lengths), dtype=torch.float64) for one in sequences]

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cache = self._layers[layer]
        queries = rotate_and_store(qkv, cos, sin, slots_of(self._sequences), cache.kv)
        split = torch.split(queries.double(), [one.count for one in self._sequences])
        each = zip(split, self._sequences, self.masses, strict=True)
        return torch.cat([self._attend(layer, q, cache, one, mass) for q, one, mass in each]).to(qkv.dtype)

    def _attend(self, layer: int, q: Tensor, cache: CacheLayer, sequence: SequenceRows, mass: Tensor) -> Tensor:
        """q [n, H, d] -> [n, H·d]"""
        n, heads, d = q.shape
        sharing = heads // cache.kv.shape[1]
        mounted, owners = _mounted(cache, sequence.prefix)
        slots = [slot_of(sequence.pages, key) for key in range(sequence.computed + n)]
        whole = cache.kv.flatten(2, 3).double()
        out = torch.empty(n, heads, d, dtype=torch.float64)
        for h in range(heads):
            keys, values = whole[:, h // sharing]
            known_keys, known_values = mounted[:, :, h // sharing]
            group = slice(h - h % sharing, h - h % sharing + sharing)
            bias = [0.0 if sequence.prefix.phi is None else float(sequence.prefix.phi[layer, h, p]) for p in owners]
            for row in range(n):
                place = sequence.computed + row
                context = [slots[key] for key in seen(self._pattern, place, q[row, group], keys[slots])]
                phi = torch.tensor(bias + [0.0] * len(context), dtype=torch.float64)
                products = torch.cat((known_keys, keys[context])) @ q[row, h]
                weights = torch.softmax((products + phi) / math.sqrt(d), dim=0)
                out[row, h] = weights @ torch.cat((known_values, values[context]))
                if row == n - 1:
                    for weight, part in zip(weights, owners, strict=False):
                        mass[part] += weight
        return out.view(n, heads * d)


def seen(pattern: Pattern, place: int, queries: Tensor, keys: Tensor) -> list[int]:
    """Places of the context tokens that the row at `place` sees, in order.

    queries [sharing, d] of that row, of the heads of one group; keys [context, d] of their kv head
    """
    if isinstance(pattern, SqrtBlocks):
        return _seen_in_blocks(pattern, place, queries, keys)
    return torch.arange(len(keys))[pattern(torch.tensor(place), torch.arange(len(keys)))].tolist()


def _seen_in_blocks(pattern: SqrtBlocks, place: int, queries: Tensor, keys: Tensor) -> list[int]:
    size = pattern.smallest
    while (2 * size) ** 2 <= place:
        size *= 2
    own = place // size
    between = range(1, own - 1)
    rise = pattern.threshold // 16
    eighths = min(8, (place - pattern.threshold) // rise) if rise else 8
    count = max(1, pattern.chosen * (16 + 3 * eighths) // 40 * pattern.smallest // size)
    if place < pattern.threshold or len(between) <= count:
        return list(range(place + 1))
    scores = {b: float(queries.sum(0) @ keys[b * size : (b + 1) * size].mean(0)) for b in between}
    chosen = sorted(between, key=lambda b: scores[b], reverse=True)[:count]
    return [key for b in sorted({0, *chosen, own - 1, own}) for key in range(b * size, (b + 1) * size) if key <= place]


def _mounted(cache: CacheLayer, prefix: Prefix) -> tuple[Tensor, list[int]]:
    """Keys and values [2, tokens, H_kv, d] of all mounted tokens, and their parts."""
    _, heads, _, _, d = cache.kv.shape
    found: list[Tensor] = []
    owners: list[int] = []
    pages = iter(prefix.pages)
    for part, length in enumerate(prefix.lengths):
        per_page = prefix.per_page[part] if prefix.per_page else PAGE_SIZE
        own = [next(pages) for _ in range(pages_for(length, per_page))]
        token = _plain_token if per_page == PAGE_SIZE else _small_token
        found += [token(cache, own[place // per_page], place % per_page) for place in range(length)]
        owners += [part] * length
    return torch.stack(found, dim=1) if found else torch.empty(2, 0, heads, d, dtype=torch.float64), owners


def _plain_token(cache: CacheLayer, page: int, place: int) -> Tensor:
    """[2, H_kv, d]"""
    return cache.kv[:, :, page, place].double()


def _small_token(cache: CacheLayer, page: int, place: int) -> Tensor:
    """[2, H_kv, d], as `kan/kernels/small_pages.py` lays them out."""
    d = cache.kv.shape[-1]
    first, token = place // PAGE_SIZE * PAGE_SIZE * d, place % PAGE_SIZE
    of_key = [first + (channel // 2 * PAGE_SIZE + token) * 2 + channel % 2 for channel in range(d)]
    of_value = [first + (token // 2 * d + channel) * 2 + token % 2 for channel in range(d)]
    keys, values = (_small_numbers(cache, page, plane, which) for plane, which in enumerate((of_key, of_value)))
    block = page * cache.in_page + place // PAGE_SIZE
    groups = cache.key_steps.shape[2]
    key_steps = cache.key_steps[:, page, place * groups // (cache.in_page * PAGE_SIZE)].double()
    groups = cache.value_steps.shape[2]
    value_steps = cache.value_steps[:, block, :, :, token].double()[:, [channel * groups // d for channel in range(d)]]
    return torch.stack((_widened(keys, key_steps.unbind(1)), _widened(values, value_steps.unbind(2))))


def _small_numbers(cache: CacheLayer, page: int, plane: int, which: list[int]) -> Tensor:
    """[H_kv, numbers], those at these places of a page: of 4 bits each sixteen are packed with the next sixteen."""
    if cache.bits == 8:
        return cache.kv.view(torch.int8)[plane, :, page].flatten(1)[:, which].double()
    packed = cache.kv.view(torch.uint8)[plane, :, page].flatten(1)
    found = [packed[:, place // 32 * 16 + place % 16] >> (4 if place % 32 >= 16 else 0) & 15 for place in which]
    return torch.stack(found, dim=1).double()


def _widened(numbers: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """numbers · scale, and of 4 bits + least"""
    return sum(steps[1:], start=numbers * steps[0])
