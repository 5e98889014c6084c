"""Single rows (decode): what they chose, as a page table for each kv head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kan.attention import PAGE_SIZE
from kan.kernels.block_means import BlockMeans
from kan.kernels.routing import Blocks, choose, summed_queries
from kan.kernels.small_pages import CacheLayer
from kan.kernels.torch_attention import Parts, Span, attend, group_of
from kan.patterns import SqrtBlocks, Way, causal


class RoutedRows:
    """`Piece` of one row each of several sequences, all with blocks of one size."""

    def __init__(self, bundle: Sequence[Span], pattern: SqrtBlocks, way: Way, parts: Parts, means: BlockMeans) -> None:
        self._parts = parts
        self._means = means
        self._level, self._chosen = way
        self._told = bundle[-1].ends
        blocks = [Blocks(one.rows, pattern, way.level) for one in bundle]
        group = group_of(bundle, [each.always_seen() for each in blocks], causal, parts)
        self._group = replace(group, mask=F.pad(group.mask, (0, way.chosen * blocks[0].step * PAGE_SIZE)))
        between = [each.between() for each in blocks]
        self._between = pad_sequence(between, batch_first=True)
        """[S, blocks, step]"""
        counts = torch.tensor([len(each) for each in between])
        none = torch.arange(self._between.shape[1]) >= counts[:, None]
        self._mask = torch.zeros(none.shape).masked_fill_(none, -torch.inf).unsqueeze(1)

    @property
    def rows(self) -> int:
        return len(self._between)

    def __call__(self, layer: int, q: Tensor, cache: CacheLayer) -> Tensor:
        group = replace(self._group, pages=self._pages(layer, q, cache.kv.shape[1]))
        out, last = attend(q.unsqueeze(1), cache, group, layer)
        if self._told:
            self._parts.add(group.parts, last)
        return out.reshape(len(q), -1)

    def _pages(self, layer: int, q: Tensor, kv_heads: int) -> Tensor:
        """[H_kv, S, P]: those that are always seen, then those of the chosen blocks."""
        sequences, blocks, _ = self._between.shape
        means = self._means.of(layer, self._level, self._between[..., -1])
        queries = summed_queries(q, means).reshape(-1, 1, q.shape[-1])
        choice = choose(queries, means.flatten(0, 1), self._mask.repeat(kv_heads, 1, 1), self._chosen)
        choice = choice.reshape(kv_heads, sequences, -1) + blocks * torch.arange(sequences)[:, None]
        chosen = self._between.flatten(0, 1)[choice].flatten(2)
        return torch.cat((self._group.pages.expand(kv_heads, -1, -1), chosen), dim=2)
