"""Attention of many queries, each to blocks of its own choice: block by block, a few products for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.kernels.paged_cache import exact_type

LARGEST_PRODUCT = 1 << 19
"""Scores that are computed at once: so few that they stay in the processor's cache until they are summed up."""
LEAST_SHARE = 0.75
"""Of queries among the rows of such a product; the others are padding."""


def attend_chosen(q: Tensor, kv: Tensor, blocks: Tensor, choice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention to every chosen block alone, not yet put together.

    q [H_kv, n, sharing, d] (divided by √d), the cache's layer, blocks [N, step] page numbers, choice [H_kv, n, k]
    -> results [T, d], the logarithms [T] of their sums of exponentials, and where among these T a query's k are:
    [H_kv·n·sharing, k]. The results are float32 (float64 for a float64 cache).
    """
    kv_heads, n, sharing, d = q.shape
    pages = (torch.arange(kv_heads)[:, None, None] * kv.shape[2] + blocks).flatten(0, 1)
    keys, values = kv.flatten(1, 2).flatten(2)
    kinds = choice + torch.arange(kv_heads)[:, None, None] * len(blocks)
    order, products = _products(kinds.reshape(-1).numpy(), sharing * blocks.shape[1] * PAGE_SIZE)

    queries = q.reshape(-1, sharing * d)
    results = torch.empty(sum(pairs.size for _, pairs in products), sharing, d, dtype=exact_type(q.dtype))
    sums = results.new_empty(results.shape[:2])
    places = np.empty(len(order), np.int64)
    end = 0
    for chosen, pairs in products:
        first, end = end, end + pairs.size
        asked = order[pairs]
        places[asked] = np.arange(first, end).reshape(pairs.shape)
        rows = F.embedding(torch.from_numpy(asked // choice.shape[-1]), queries).view(len(chosen), -1, d)
        read = pages[torch.from_numpy(chosen)].view(-1)
        k, v = (F.embedding(read, each).view(len(chosen), -1, d) for each in (keys, values))
        weights, log_sums = normalised(torch.bmm(rows, k.transpose(1, 2)).to(results.dtype))
        results[first:end].view(rows.shape).copy_(torch.bmm(weights.to(v.dtype), v))
        sums[first:end].view(log_sums.shape).copy_(log_sums)
    heads = torch.arange(sharing)[:, None]
    index = torch.from_numpy(places).view(kv_heads * n, 1, -1) * sharing + heads
    return results.view(-1, d), sums.view(-1), index.flatten(0, 1)


def normalised(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores [..., columns] -> their softmax, and the logarithm [...] of the sum of their exponentials."""
    weights = torch.softmax(scores, dim=-1)
    return weights, scores.amax(-1) - weights.amax(-1).log_()


def _products(
    kinds: NDArray[np.int64], scores: int
) -> tuple[NDArray[np.int64], list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Pairs of a query and a block, of so many scores each, in the order of their kinds (kv head and block); and
    what to compute at once: kinds [S] and, as places in that order, their pairs [S, m], the last repeated as padding.
    """
    order = np.argsort(kinds, kind="stable")
    counts = np.bincount(kinds)
    firsts = np.cumsum(counts) - counts
    by_count = np.argsort(-counts, kind="stable")
    by_count = by_count[counts[by_count] > 0]
    products = []
    for some in _bundles(counts[by_count], max(1, LARGEST_PRODUCT // scores)):
        chosen = by_count[some]
        most = counts[chosen[0]]
        products.append((chosen, firsts[chosen, None] + np.minimum(np.arange(most), counts[chosen, None] - 1)))
    return order, products


def _bundles(counts: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Of descending counts those that go together: of like size, and with their padding no more than `most`."""
    first = 0
    while first < len(counts):
        alike = np.searchsorted(-counts, -LEAST_SHARE * counts[first], side="right")
        end = min(int(alike), first + max(1, most // int(counts[first])))
        yield slice(first, end)
        first = end
