"""`SqrtBlocks` over a paged cache by torch operations: O(n^1.5) for a prompt, O(√n) for a row, and no n × n object.

A single row's chosen blocks become a page table of its own for each kv head, and dense attention over that is all
(`routed_rows.py`). The rows of a prompt choose each for itself, too; but there a block is taken up once, with all the
queries that chose it, and the partial results meet in one softmax (`routed_prompt.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from torch import Tensor

from kan.attention import SequenceRows
from kan.kernels.block_means import BlockMeans
from kan.kernels.paged_cache import exact_type, rotate_and_store, slots_of
from kan.kernels.routed_prompt import RoutedPrompt
from kan.kernels.routed_rows import RoutedRows
from kan.kernels.small_pages import CacheLayer
from kan.kernels.torch_attention import Parts, Piece, SeenRows, Span, bundles, in_pieces
from kan.patterns import Pattern, SqrtBlocks, causal

TILE = 1024
"""Rows of a prompt that are routed together: all their partial results are in memory at once."""


class RoutedAttention:
    """`PagedAttention` of a step, in pieces: rows that see everything, single rows, and tiles of prompts."""

    def __init__(
        self, means: BlockMeans, layers: Sequence[CacheLayer], pattern: Pattern, sequences: Sequence[SequenceRows]
    ) -> None:
        assert isinstance(pattern, SqrtBlocks), "means of blocks are kept for no other pattern"
        self._means = means
        self._layers = layers
        self._slots = slots_of(sequences)
        self._completed = means.completed(sequences)
        parts = Parts(sequences, exact_type(layers[0].kv.dtype))
        self.masses = parts.masses
        spans = [
            span
            for one, first_part in zip(sequences, parts.first, strict=True)
            for span in _spans(one, first_part, pattern)
        ]
        self.pieces = list(_pieces(spans, pattern, parts, means))

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cache = self._layers[layer]
        queries = rotate_and_store(qkv, cos, sin, self._slots, cache.kv)
        self._means.refresh(layer, cache.kv, self._completed)
        return in_pieces(self.pieces, layer, queries, cache)


def _spans(one: SequenceRows, first_part: int, pattern: SqrtBlocks) -> Iterator[Span]:
    """A sequence's rows, cut where their way changes and, where they are routed, into tiles."""
    end = one.computed + one.count
    for first, last, way in pattern.spans(one.computed, end):
        tiles = [] if way is None else range(first - first % TILE + TILE, last, TILE)
        for start, stop in pairwise([first, *tiles, last]):
            yield Span(replace(one, computed=start, count=stop - start), first_part, stop == end)


def _pieces(spans: Sequence[Span], pattern: SqrtBlocks, parts: Parts, means: BlockMeans) -> Iterator[Piece]:
    for way, alike in groupby(spans, key=lambda one: pattern.way(one.rows.computed)):
        for bundle in bundles(list(alike)):
            if way is None:
                yield SeenRows(bundle, causal, parts)
            elif bundle[0].rows.count == 1:
                yield RoutedRows(bundle, pattern, way, parts, means)
            else:
                yield RoutedPrompt(bundle[0], pattern, way, parts, means)
