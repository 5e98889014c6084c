"""Many rows of one sequence (prefill): every block once, with all the queries that chose it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.kernels.block_means import BlockMeans
from kan.kernels.chosen_blocks import attend_chosen, normalised
from kan.kernels.routing import Blocks, choose, summed_queries
from kan.kernels.small_pages import CacheLayer
from kan.kernels.torch_attention import Parts, Span, group_of, scores_and_values
from kan.patterns import SqrtBlocks, Way, causal


class RoutedPrompt:
    """`Piece` of consecutive rows, all with blocks of one size."""

    def __init__(self, span: Span, pattern: SqrtBlocks, way: Way, parts: Parts, means: BlockMeans) -> None:
        self._parts = parts
        self._means = means
        self._level, self._chosen = way
        self._told = span.ends
        self._between = Blocks(span.rows, pattern, way.level).between()
        own = torch.arange(span.rows.computed, span.rows.computed + span.rows.count) // pattern.block(way.level)
        none = torch.arange(len(self._between)) >= own[:, None] - 2
        self._mask = torch.zeros(none.shape).masked_fill_(none, -torch.inf)
        self._near = [
            group_of([rows], [Blocks(rows.rows, pattern, way.level).always_seen()], causal, parts)
            for rows in _by_own_block(span, own)
        ]

    @property
    def rows(self) -> int:
        return len(self._mask)

    def __call__(self, layer: int, q: Tensor, cache: CacheLayer) -> Tensor:
        """What is always seen and every chosen block are attended to apart; then each is weighed by its share."""
        n, heads, d = q.shape
        kv_heads = cache.kv.shape[1]
        near, near_sums, last_scores = self._attend_near(layer, q, cache)
        means = self._means.of(layer, self._level, self._between[:, -1])
        choice = choose(summed_queries(q, means), means, self._mask, self._chosen)
        far, far_sums, index = attend_chosen(_by_kv_head(q, kv_heads), cache.kv, self._between, choice)
        sums = torch.cat((near_sums.reshape(-1, 1), far_sums[index]), dim=1)
        total = sums.logsumexp(dim=1, keepdim=True)
        shares = sums.sub_(total).exp_()
        out = F.embedding_bag(index, far, mode="sum", per_sample_weights=shares[:, 1:].contiguous())
        out.addcmul_(near.reshape(-1, d), shares[:, :1])
        if self._told:
            self._tell(last_scores, total.reshape(kv_heads, n, -1)[:, -1])
        return out.reshape(kv_heads, n, -1, d).transpose(0, 1).reshape(n, heads * d).to(q.dtype)

    def _attend_near(self, layer: int, q: Tensor, cache: CacheLayer) -> tuple[Tensor, Tensor, Tensor]:
        """Results [H_kv, n, H / H_kv, d], log sums [H_kv, n, H / H_kv], and the last row's scores [H_kv, H / H_kv, …]
        of mounted columns."""
        outs, sums = [], []
        for group, rows in zip(self._near, torch.split(q, [group.mask.shape[1] for group in self._near]), strict=True):
            scores, values = scores_and_values(rows.unsqueeze(0), cache, group, layer)
            weights, log_sums = normalised(scores.squeeze(1))
            kv_heads, sharing, n, columns = weights.shape
            out = torch.bmm(weights.reshape(kv_heads, sharing * n, columns).to(values.dtype), values)
            outs.append(out.reshape(kv_heads, sharing, n, -1).transpose(1, 2))
            sums.append(log_sums.transpose(1, 2))
        mounted = self._near[-1].parts.shape[1] * PAGE_SIZE
        near = torch.cat(outs, dim=1).to(scores.dtype)
        return near, torch.cat(sums, dim=1), scores[:, 0, :, -1, :mounted]

    def _tell(self, scores: Tensor, total: Tensor) -> None:
        """The last row's attention on mounted columns: scores and total as above."""
        self._parts.add(self._near[-1].parts, (scores - total.unsqueeze(-1)).exp().sum((0, 1)))


def _by_own_block(span: Span, own: Tensor) -> Iterator[Span]:
    """The rows, cut where one block ends."""
    counts = np.unique(own.numpy(), return_counts=True)[1].tolist()
    for first, end in pairwise(accumulate(counts, initial=span.rows.computed)):
        yield replace(span, rows=replace(span.rows, computed=first, count=end - first))


def _by_kv_head(q: Tensor, kv_heads: int) -> Tensor:
    """q [n, H, d] -> q / √d [H_kv, n, H / H_kv, d]"""
    return (q / math.sqrt(q.shape[-1])).reshape(len(q), kv_heads, -1, q.shape[-1]).transpose(0, 1)
