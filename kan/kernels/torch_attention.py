"""Eq. 1 by torch operations, in any dtype: gather the pages, then take two batched matrix products around one softmax.

The batch of the products is (kv head, sequence): in that order the gathered pages already lie contiguous, and the query
heads of a group are rows of the same product, so that keys and values are read once per group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, phi_of
from kan.kernels.paged_cache import exact_type, gather_pages, rotate_and_store, slots_of
from kan.kernels.small_pages import CacheLayer
from kan.patterns import Pattern, PlacePattern, SqrtBlocks


@dataclass(frozen=True, slots=True)
class Group:
    """S sequences with n rows each, over B blocks in small pages and then P pages each (shorter ones are padded and
    masked); the first K of these may be mounted.

    blocks  [S, B] int64 numbers of blocks, as in `Prefix.table`
    pages   [S, P] int64 page numbers, or [H_kv, S, P] where heads look at different ones
    mask    [S, n, (B + P)·PAGE_SIZE] 0 where a row may look, -inf elsewhere
    parts   [S, K] int64 the part of the step that a page belongs to; one past the last for context and padding
    phi     [layers, H, S, K] φ of those pages, or None for no bias
    """

    blocks: Tensor
    pages: Tensor
    mask: Tensor
    parts: Tensor
    phi: Tensor | None


Attend = Callable[[Tensor, CacheLayer, Group, int], tuple[Tensor, Tensor]]
"""Eq. 1 for a group: (q [S, n, H, d], the cache's layer, the group, which layer) -> the same shape, and what the last
rows give to the first K pages, summed over heads: [S, K·PAGE_SIZE]."""


def attend(q: Tensor, cache: CacheLayer, group: Group, layer: int) -> tuple[Tensor, Tensor]:
    """`Attend`. Scores, bias and softmax are float32 (float64 for a float64 cache)."""
    scores, values = scores_and_values(q, cache, group, layer)
    kv_heads, sequences, sharing, n, columns = scores.shape
    weights = torch.softmax(scores, dim=-1)
    # Of all at once, the same sum is five times slower.
    last = weights[..., -1, : group.parts.shape[1] * PAGE_SIZE].sum(2).sum(0)

    out = torch.bmm(weights.view(-1, sharing * n, columns).to(values.dtype), values)
    return out.view(kv_heads, sequences, sharing, n, -1).permute(1, 3, 0, 2, 4).reshape(q.shape), last


def scores_and_values(q: Tensor, cache: CacheLayer, group: Group, layer: int) -> tuple[Tensor, Tensor]:
    """q [S, n, H, d] -> (Q Kᵀ + φ) / √d [H_kv, S, H / H_kv, n, columns], masked, and V [H_kv·S, columns, d]."""
    sequences, n, heads, d = q.shape
    keys, values = keys_and_values(cache, group)
    kv_heads, columns = len(keys) // sequences, keys.shape[1]
    sharing, mounted = heads // kv_heads, group.parts.shape[1]
    queries = q.view(sequences, n, kv_heads, sharing, d).permute(2, 0, 3, 1, 4).reshape(-1, sharing * n, d)

    products = torch.bmm(queries, keys.transpose(1, 2)).view(kv_heads, sequences, sharing, n, columns)
    scores = torch.add(group.mask[:, None], products, alpha=1 / math.sqrt(d))
    if group.phi is not None:
        bias = group.phi[layer].view(kv_heads, sharing, sequences, 1, mounted, 1).transpose(1, 2) / math.sqrt(d)
        scores[..., : mounted * PAGE_SIZE].view(*scores.shape[:-1], mounted, PAGE_SIZE).add_(bias)
    return scores, values


def keys_and_values(cache: CacheLayer, group: Group) -> tuple[Tensor, Tensor]:
    """All columns of a group, both [H_kv·S, (B + P)·PAGE_SIZE, d] in the cache's type."""
    heads, d = cache.kv.shape[1], cache.kv.shape[-1]
    sequences, blocks = group.blocks.shape
    shape = (2, heads * sequences, -1, d)
    plain = gather_pages(cache.kv, group.pages.flatten(-2)).view(shape)
    if blocks:
        plain = torch.cat((torch.stack(cache.small_blocks(group.blocks.flatten())).view(shape), plain), dim=2)
    keys, values = plain
    return keys, values


class Parts:
    """The mounted parts of all sequences of a step, numbered through: their φ, and the attention that they get."""

    def __init__(self, sequences: Sequence[SequenceRows], exact: torch.dtype) -> None:
        firsts = list(accumulate((len(one.prefix.lengths) for one in sequences), initial=0))
        self.first = firsts[:-1]
        """The number of each sequence's first."""
        self.nobody = firsts[-1]
        """The number of what belongs to no part."""
        phi = phi_of(sequences)
        self.phi = None if phi is None else F.pad(phi.to(exact), (0, 1))
        """[layers, H, parts + 1]"""
        self._mass = torch.zeros(self.nobody + 1, dtype=exact)
        self.masses = [self._mass[first:end] for first, end in pairwise(firsts)]

    def add(self, parts: Tensor, mass: Tensor) -> None:
        """Attention [S, K·PAGE_SIZE] on pages that belong to parts [S, K]."""
        if parts.numel():
            self._mass.index_add_(0, parts.view(-1), mass.view(-1, PAGE_SIZE).sum(-1).to(self._mass.dtype))


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one sequence that are computed in one way.

    first_part   the number of the sequence's first part
    ends         whether its last row is the sequence's last in this step, whose attention on the parts is told
    """

    rows: SequenceRows
    first_part: int
    ends: bool = True

    @property
    def columns(self) -> int:
        return self.rows.prefix.columns + len(self.rows.context) * PAGE_SIZE

    @property
    def whole_context(self) -> NDArray[np.int64]:
        """The places, counted in pages, of all that its rows may see."""
        return np.arange(len(self.rows.context))


class Piece(Protocol):
    """Some rows of a step, made ready once for all layers."""

    @property
    def rows(self) -> int: ...

    def __call__(self, layer: int, q: Tensor, cache: CacheLayer) -> Tensor:
        """q [rows, H, d] after RoPE, the cache's layer -> [rows, H·d]"""
        ...


class TorchAttention:
    """`PagedAttention` of a step, in groups of neighbours that are computed together."""

    def __init__(
        self, layers: Sequence[CacheLayer], pattern: Pattern, sequences: Sequence[SequenceRows], attend: Attend = attend
    ) -> None:
        assert not isinstance(pattern, SqrtBlocks), "routed attention computes that"
        self._layers = layers
        self._slots = slots_of(sequences)
        parts = Parts(sequences, exact_type(layers[0].kv.dtype))
        self.masses = parts.masses
        spans = [Span(one, first) for one, first in zip(sequences, parts.first, strict=True)]
        self.pieces = [SeenRows(bundle, pattern, parts, attend) for bundle in bundles(spans)]

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cache = self._layers[layer]
        return in_pieces(self.pieces, layer, rotate_and_store(qkv, cos, sin, self._slots, cache.kv), cache)


def in_pieces(pieces: Sequence[Piece], layer: int, q: Tensor, cache: CacheLayer) -> Tensor:
    """q [R, H, d] of all pieces, one after the other -> [R, H·d]"""
    each = zip(pieces, torch.split(q, [piece.rows for piece in pieces]), strict=True)
    outputs = [piece(layer, rows, cache) for piece, rows in each]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class SeenRows:
    """`Piece` of rows that see what a pattern of places says."""

    def __init__(self, bundle: Sequence[Span], pattern: PlacePattern, parts: Parts, attend: Attend = attend) -> None:
        self.group = group_of(bundle, [one.whole_context for one in bundle], pattern, parts)
        self._parts = parts
        self._attend = attend
        self._told = bundle[-1].ends

    @property
    def rows(self) -> int:
        return self.group.mask.shape[0] * self.group.mask.shape[1]

    def __call__(self, layer: int, q: Tensor, cache: CacheLayer) -> Tensor:
        sequences, n, _ = self.group.mask.shape
        out, last = self._attend(q.reshape(sequences, n, *q.shape[1:]), cache, self.group, layer)
        if self._told:
            self._parts.add(self.group.parts, last)
        return out.reshape(sequences * n, -1)


def bundles(spans: Sequence[Span]) -> list[list[Span]]:
    """Neighbours to compute together."""
    found: list[list[Span]] = []
    for one in spans:
        if found and _alike(found[-1][0], one):
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _alike(one: Span, other: Span) -> bool:
    """Single rows, and of lengths such that padding never much more than doubles the work."""
    shorter, longer = sorted((one.columns, other.columns))
    single = one.rows.count == other.rows.count == 1 and one.ends and other.ends
    return single and longer <= 2 * shorter + 256


def group_of(
    bundle: Sequence[Span], contexts: Sequence[NDArray[np.int64]], pattern: PlacePattern, parts: Parts
) -> Group:
    """Of spans that see all that is mounted and, by the pattern, their context's pages at these places."""
    tables = [_small_and_plain(one.rows.prefix) for one in bundle]
    small, mounted = (max(len(table[kind]) for table in tables) for kind in range(2))
    longest = max(len(plain) + len(context) for (_, plain), context in zip(tables, contexts, strict=True))
    blocks, pages = np.zeros((len(bundle), small), np.int64), np.zeros((len(bundle), longest), np.int64)
    owners = np.full((len(bundle), small + mounted), parts.nobody)
    for row, (one, context, (block, plain)) in enumerate(zip(bundle, contexts, tables, strict=True)):
        blocks[row, : len(block)] = block[:, 0]
        looked_at = [*plain[:, 0], *np.asarray(one.rows.pages)[context]]
        pages[row, : len(looked_at)] = looked_at
        owners[row, : len(block)] = one.first_part + block[:, 2]
        owners[row, small : small + len(plain)] = one.first_part + plain[:, 2]
    known = torch.from_numpy(owners)
    masks = [_mask(one.rows, context, pattern, small, longest) for one, context in zip(bundle, contexts, strict=True)]
    phi = None if parts.phi is None else parts.phi[:, :, known]
    return Group(torch.from_numpy(blocks), torch.from_numpy(pages), torch.stack(masks), known, phi)


def _small_and_plain(prefix: Prefix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of its table, by the kind of their pages."""
    is_small = prefix.table[:, 3] == 1
    return prefix.table[is_small], prefix.table[~is_small]


def _mask(one: SequenceRows, context: NDArray[np.int64], pattern: PlacePattern, small: int, pages: int) -> Tensor:
    """[n, (small + pages)·PAGE_SIZE] for one sequence."""
    blocks, plain = _small_and_plain(one.prefix)
    mask = torch.full((one.count, (small + pages) * PAGE_SIZE), -torch.inf)
    first, second = small * PAGE_SIZE, (small + len(plain)) * PAGE_SIZE
    mask[:, : len(blocks) * PAGE_SIZE].masked_fill_(_filled(blocks), 0)
    mask[:, first:second].masked_fill_(_filled(plain), 0)
    rows = torch.arange(one.computed, one.computed + one.count)
    places = (torch.from_numpy(context)[:, None] * PAGE_SIZE + torch.arange(PAGE_SIZE)).view(-1)
    mask[:, second : second + len(places)].masked_fill_(pattern(rows[:, None], places), 0)
    return mask


def _filled(table: NDArray[np.int64]) -> Tensor:
    """[columns] of these rows of a table: whether there is a token."""
    return (torch.arange(PAGE_SIZE) < torch.from_numpy(table[:, 1, None])).view(-1)
