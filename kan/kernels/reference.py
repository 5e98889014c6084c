"""Eq. 1 written plainly, in float64: one sequence, one head and one row at a time. The truth for all other kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kan.attention import SequenceRows, pages_for, slot_of
from kan.kernels.paged_cache import rotate_and_store, slots_of
from kan.patterns import Pattern, SqrtBlocks


class ReferenceAttention:
    """`PagedAttention` by the formula."""

    def __init__(self, layers: Sequence[Tensor], pattern: Pattern, sequences: Sequence[SequenceRows]) -> None:
        self._layers = layers
        self._pattern = pattern
        self._sequences = sequences
        self.masses = [torch.zeros(len(one.prefix.lengths), dtype=torch.float64) for one in sequences]

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        kv = self._layers[layer]
        queries = rotate_and_store(qkv, cos, sin, slots_of(self._sequences), kv)
        split = torch.split(queries.double(), [one.count for one in self._sequences])
        each = zip(split, self._sequences, self.masses, strict=True)
        return torch.cat([self._attend(layer, q, kv, one, mass) for q, one, mass in each]).to(qkv.dtype)

    def _attend(self, layer: int, q: Tensor, kv: Tensor, sequence: SequenceRows, mass: Tensor) -> Tensor:
        """q [n, H, d] -> [n, H·d]"""
        n, heads, d = q.shape
        sharing = heads // kv.shape[1]
        mounted = _mounted(sequence)
        out = torch.empty(n, heads, d, dtype=torch.float64)
        for h in range(heads):
            keys, values = kv[:, h // sharing].flatten(1, 2).double()
            group = slice(h - h % sharing, h - h % sharing + sharing)
            bias = [0.0 if sequence.prefix.phi is None else float(sequence.prefix.phi[layer, h, p]) for _, p in mounted]
            for row in range(n):
                place = sequence.computed + row
                context = [slot_of(sequence.pages, key) for key in range(sequence.computed + n)]
                context = [context[key] for key in seen(self._pattern, place, q[row, group], keys[context])]
                columns = [slot for slot, _ in mounted] + context
                phi = torch.tensor(bias + [0.0] * len(context), dtype=torch.float64)
                weights = torch.softmax((keys[columns] @ q[row, h] + phi) / math.sqrt(d), dim=0)
                out[row, h] = weights @ values[columns]
                if row == n - 1:
                    for weight, (_, part) in zip(weights, mounted, strict=False):
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
    if place < pattern.threshold or len(between) <= pattern.chosen:
        return list(range(place + 1))
    scores = {b: float(queries.sum(0) @ keys[b * size : (b + 1) * size].mean(0)) for b in between}
    chosen = sorted(between, key=lambda b: scores[b], reverse=True)[: pattern.chosen]
    return [key for b in sorted({0, *chosen, own - 1, own}) for key in range(b * size, (b + 1) * size) if key <= place]


def _mounted(sequence: SequenceRows) -> list[tuple[int, int]]:
    """Slot and part of every mounted token."""
    found: list[tuple[int, int]] = []
    first = 0
    for part, length in enumerate(sequence.prefix.lengths):
        pages = sequence.prefix.pages[first : first + pages_for(length)]
        found += [(slot_of(pages, token), part) for token in range(length)]
        first += len(pages)
    return found
