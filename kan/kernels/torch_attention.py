"""Eq. 1 by torch operations, in any dtype: gather the pages, then take two batched matrix products around one softmax.

The batch of the products is (kv head, sequence): in that order the gathered pages already lie contiguous, and the query
heads of a group are rows of the same product, so that keys and values are read once per group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, Pattern, SequenceRows, phi_of
from kan.kernels.paged_cache import rotate_and_store, slots_of


@dataclass(frozen=True, slots=True)
class Group:
    """S sequences with n rows each, over P pages each (shorter ones are padded and masked); the first K may be mounted.

    pages   [S, P] int64 page numbers
    mask    [S, n, P·PAGE_SIZE] 0 where a row may look, -inf elsewhere
    parts   [S, K] int64 the part of the step that a page belongs to; one past the last for context and padding
    phi     [layers, H, S, K] φ of those pages, or None for no bias
    """

    pages: Tensor
    mask: Tensor
    parts: Tensor
    phi: Tensor | None


Attend = Callable[[Tensor, Tensor, Group, int], tuple[Tensor, Tensor]]
"""Eq. 1 for a group: (q [S, n, H, d], the cache's layer, the group, which layer) -> the same shape, and what the last
rows give to the first K pages, summed over heads: [S, K·PAGE_SIZE]."""


def attend(q: Tensor, kv: Tensor, group: Group, layer: int) -> tuple[Tensor, Tensor]:
    """`Attend`. Scores, bias and softmax are float32 (float64 for a float64 cache)."""
    sequences, n, heads, d = q.shape
    kv_heads, columns = kv.shape[1], group.mask.shape[-1]
    sharing, mounted = heads // kv_heads, group.parts.shape[1]

    keys, values = _gather(kv, group.pages.view(-1)).view(2, kv_heads * sequences, columns, d)
    queries = q.view(sequences, n, kv_heads, sharing, d).permute(2, 0, 3, 1, 4).reshape(-1, sharing * n, d)

    products = torch.bmm(queries, keys.transpose(1, 2)).view(kv_heads, sequences, sharing, n, columns)
    scores = torch.add(group.mask[:, None], products, alpha=1 / math.sqrt(d))
    if group.phi is not None:
        bias = group.phi[layer].view(kv_heads, sharing, sequences, 1, mounted, 1).transpose(1, 2) / math.sqrt(d)
        scores[..., : mounted * PAGE_SIZE].view(*scores.shape[:-1], mounted, PAGE_SIZE).add_(bias)
    weights = torch.softmax(scores, dim=-1)
    last = weights[..., -1, : mounted * PAGE_SIZE].sum(2).sum(0)  # at once, the same sum is five times slower

    out = torch.bmm(weights.view(-1, sharing * n, columns).to(values.dtype), values)
    return out.view(kv_heads, sequences, sharing, n, d).permute(1, 3, 0, 2, 4).reshape(sequences, n, heads, d), last


def _gather(kv: Tensor, pages: Tensor) -> Tensor:
    """kv [2, H_kv, pages, PAGE_SIZE, d], pages [N] -> [2 · H_kv · N, PAGE_SIZE · d].

    As rows of one table, because an embedding look-up uses every core and index_select along an inner axis does not.
    """
    planes = kv.shape[0] * kv.shape[1]
    rows = torch.arange(planes)[:, None] * kv.shape[2] + pages
    return F.embedding(rows.view(-1), kv.view(planes * kv.shape[2], -1))


class TorchAttention:
    """`PagedAttention` of a step, in groups of neighbours that are computed together."""

    def __init__(
        self, layers: Sequence[Tensor], pattern: Pattern, sequences: Sequence[SequenceRows], attend: Attend = attend
    ) -> None:
        self._layers = layers
        self._attend = attend
        self._slots = slots_of(sequences)
        parts = list(accumulate((len(one.prefix.lengths) for one in sequences), initial=0))
        exact = torch.float64 if layers[0].dtype == torch.float64 else torch.float32
        self._mass = torch.zeros(parts[-1] + 1, dtype=exact)
        """Of every part; at its end what goes to nobody's."""
        self.masses = [self._mass[first:end] for first, end in pairwise(parts)]
        phi = phi_of(sequences)
        phi = None if phi is None else F.pad(phi.to(exact), (0, 1))
        bundles = _bundles(list(zip(sequences, parts, strict=False)))
        self._groups = [_group(bundle, pattern, phi, parts[-1]) for bundle in bundles]
        self._rows = [len(bundle) * bundle[0][0].count for bundle in bundles]

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        kv = self._layers[layer]
        queries = rotate_and_store(qkv, cos, sin, self._slots, kv)
        each = zip(torch.split(queries, self._rows), self._groups, strict=True)
        outputs = [self._one_group(layer, q, kv, group) for q, group in each]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _one_group(self, layer: int, q: Tensor, kv: Tensor, group: Group) -> Tensor:
        sequences, n, _ = group.mask.shape
        out, last = self._attend(q.reshape(sequences, n, *q.shape[1:]), kv, group, layer)
        if group.parts.numel():
            by_page = last.view(-1, PAGE_SIZE).sum(-1)
            self._mass.index_add_(0, group.parts.view(-1), by_page.to(self._mass.dtype))
        return out.reshape(sequences * n, -1)


def _bundles(sequences: Sequence[tuple[SequenceRows, int]]) -> list[list[tuple[SequenceRows, int]]]:
    """Neighbours to compute together, each with the number of its first part."""
    bundles: list[list[tuple[SequenceRows, int]]] = []
    for one in sequences:
        if bundles and _alike(bundles[-1][0][0], one[0]):
            bundles[-1].append(one)
        else:
            bundles.append([one])
    return bundles


def _alike(one: SequenceRows, other: SequenceRows) -> bool:
    """Single rows, and of lengths such that padding never much more than doubles the work."""
    shorter, longer = sorted((_columns(one), _columns(other)))
    return one.count == other.count == 1 and longer <= 2 * shorter + 256


def _columns(one: SequenceRows) -> int:
    return one.prefix.columns + len(one.context) * PAGE_SIZE


def _group(bundle: Sequence[tuple[SequenceRows, int]], pattern: Pattern, phi: Tensor | None, nobody: int) -> Group:
    sequences = [one for one, _ in bundle]
    longest = max(map(_columns, sequences)) // PAGE_SIZE
    mounted = max(len(one.prefix.pages) for one in sequences)
    pages = np.zeros((len(bundle), longest), np.int64)
    parts = np.full((len(bundle), mounted), nobody)
    for row, (one, first_part) in enumerate(bundle):
        pages[row, : _columns(one) // PAGE_SIZE] = [*one.prefix.pages, *one.context]
        parts[row, : len(one.prefix.pages)] = first_part + one.prefix.table[:, 2]
    known = torch.from_numpy(parts)
    return Group(
        pages=torch.from_numpy(pages),
        mask=torch.stack([_mask(one, pattern, longest * PAGE_SIZE) for one in sequences]),
        parts=known,
        phi=None if phi is None else phi[:, :, known],
    )


def _mask(one: SequenceRows, pattern: Pattern, columns: int) -> Tensor:
    """[n, columns] for one sequence."""
    mask = torch.full((one.count, columns), -torch.inf)
    tokens = torch.from_numpy(one.prefix.table[:, 1, None])
    prefix, end = one.prefix.columns, one.prefix.columns + one.computed + one.count
    mask[:, :prefix].masked_fill_((torch.arange(PAGE_SIZE) < tokens).view(-1), 0)
    context = torch.arange(one.computed + one.count)
    mask[:, prefix:end].masked_fill_(pattern(context[one.computed :, None], context), 0)
    return mask
