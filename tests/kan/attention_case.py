"""Input of one attention call over a paged cache, hostile in its layout; and the same call on any kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from hypothesis import strategies as st
from torch import Tensor

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for
from kan.config import KANConfig
from kan.kernels.operations import Cache
from kan.kernels.small_pages import tokens_per_small_page
from kan.quantization import Bits
from tests.tiny import tiny_config

SMALL_PAGES = 5


class MakesCaches(Protocol):
    """What a case needs of `Kernels`."""

    def new_cache(self, config: KANConfig, pages: int, dtype: torch.dtype, small_bits: Bits) -> Cache: ...


@dataclass(frozen=True)
class Case:
    """RoPE is left out (every row at position 0): what is compared is attention.

    kv          [2, layers, cached tokens, H_kv, d], before the rows are stored
    qkv         [R, H + 2·H_kv, d] of all rows
    sequences   with pages as in a cache of bfloat16
    small_kv    [2, layers, small pages, tokens, H_kv, d]: what is rounded into the small pages, which come after the
                others; as many tokens as the largest of them take, whatever the cache's type
    bits        of the numbers in small pages
    """

    config: KANConfig
    kv: Tensor
    qkv: Tensor
    sequences: list[SequenceRows]
    small_kv: Tensor
    bits: Bits

    def new_cache(self, kernels: MakesCaches, dtype: torch.dtype) -> Cache:
        """Filled."""
        pages, small = self.kv.shape[2] // PAGE_SIZE, self.small_kv.shape[2]
        cache = kernels.new_cache(self.config, pages + small, dtype, self.bits)
        cache.write(range(pages), *self.kv.to(dtype))
        tokens = tokens_per_small_page(dtype, self.bits)
        for page in range(small):
            cache.write_small([pages + page], *self.small_kv[:, :, page, :tokens].to(dtype))
        return cache

    def run(self, kernels: MakesCaches, dtype: torch.dtype, layer: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Output [R, H, d] of one layer, and the masses of its parts."""
        attention = self.new_cache(kernels, dtype).attention(
            [laid_out(one, dtype, self.bits) for one in self.sequences]
        )
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        cos, sin = (torch.full((len(self.qkv), 1, self.config.head_dim), one, dtype=exact) for one in (1.0, 0.0))
        out = attention(layer, self.qkv.to(dtype), cos, sin)
        return out.view(len(out), -1, self.config.head_dim), list(attention.masses)

    @property
    def largest_bias(self) -> float:
        """Of |φ|, where it is finite. A score of this size is rounded by this much times the type's epsilon, and the
        weights that come of it by as large a share."""
        biases = torch.cat(
            [torch.zeros(1), *(one.prefix.phi.flatten() for one in self.sequences if one.prefix.phi is not None)]
        )
        return float(biases[biases.isfinite()].abs().max())

    def alone(self, index: int) -> Case:
        """One of the sequences without the others."""
        first, end = (sum(one.count for one in self.sequences[:stop]) for stop in (index, index + 1))
        return replace(self, qkv=self.qkv[first:end].contiguous(), sequences=[self.sequences[index]])


def laid_out(one: SequenceRows, dtype: torch.dtype, bits: Bits) -> SequenceRows:
    """The same with small pages as a cache of this type has them: the larger its numbers, the fewer."""
    prefix, per_page = one.prefix, tokens_per_small_page(dtype, bits)
    pages: list[int] = []
    rest = list(prefix.pages)
    for length, own in zip(prefix.lengths, prefix.per_page, strict=False):
        there = [rest.pop(0) for _ in range(pages_for(length, own))]
        pages += there if own == PAGE_SIZE else there[: pages_for(length, per_page)]
    own_sizes = tuple(PAGE_SIZE if own == PAGE_SIZE else per_page for own in prefix.per_page)
    return replace(one, prefix=replace(prefix, pages=(*pages, *rest), per_page=own_sizes))


def noise(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """In bfloat16, so that every type starts from the same numbers."""
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


def case(
    seed: int,
    sequences: list[tuple[list[int], int, int]],
    *,
    kv_heads: int = 1,
    group: int = 3,
    d: int = 64,
    bias: float | None = None,
    layers: int = 1,
    small: float = 0.0,
    bits: Bits = 8,
) -> Case:
    """`sequences`: (lengths of the mounted parts, tokens already computed, new rows) of each.

    Mounted pages lie in any order and are shared by parts and sequences, and every other sequence has no φ at all if
    there are several. `bias` is the deviation of φ; some of it is -inf if that is infinite; None for no φ.
    So large a share of the parts, about, is in `small` pages, of so many `bits`.
    """
    per_page, most = (tokens_per_small_page(dtype, bits) for dtype in (torch.bfloat16, torch.float64))
    generator = torch.Generator().manual_seed(seed)
    config = tiny_config(
        num_layers=layers, num_heads=kv_heads * group, num_kv_heads=kv_heads, head_dim=d, max_position_embeddings=4096
    )
    shared = 1 + sum(map(pages_for, max((parts for parts, _, _ in sequences), key=sum)))
    owned = [pages_for(computed + count) + seed % 2 for _, computed, count in sequences]
    ends = list(accumulate(owned, initial=shared))
    order = shared + torch.randperm(sum(owned), generator=generator)
    laid = []
    for index, (parts, computed, count) in enumerate(sequences):
        sizes = [per_page if chance < small else PAGE_SIZE for chance in torch.rand(len(parts), generator=generator)]
        mounted: list[int] = []
        for length, size in zip(parts, sizes, strict=True):
            first, end = (0, shared) if size == PAGE_SIZE else (ends[-1], ends[-1] + SMALL_PAGES)
            mounted += torch.randint(first, end, (pages_for(length, size),), generator=generator).tolist()
        own = order[ends[index] - shared : ends[index + 1] - shared].tolist()
        phi = None if index % 2 else _phi(generator, layers, kv_heads * group, len(parts), bias)
        laid.append(SequenceRows(Prefix(tuple(mounted), tuple(parts), phi, tuple(sizes)), own, computed, count))
    rows = sum(one.count for one in laid)
    return Case(
        config=config,
        kv=noise(seed + 1, 2, layers, ends[-1] * PAGE_SIZE, kv_heads, d),
        qkv=noise(seed, rows, (group + 2) * kv_heads, d, scale=2),
        sequences=laid,
        small_kv=noise(seed + 2, 2, layers, SMALL_PAGES if small else 0, most, kv_heads, d),
        bits=bits,
    )


def _phi(generator: torch.Generator, layers: int, heads: int, parts: int, bias: float | None) -> Tensor | None:
    if bias is None:
        return None
    phi = torch.randn(layers, heads, parts, generator=generator)
    if bias != torch.inf:
        return phi * bias
    return (8 * phi).masked_fill(torch.rand(phi.shape, generator=generator) < 0.5, -torch.inf)


@st.composite
def cases(draw: st.DrawFn, d: tuple[int, ...], most_rows: int, layers: int = 1) -> Case:
    """Prompts and single rows together, in any order, some with nothing mounted or with an empty part."""
    lengths = st.lists(st.integers(0, 70), max_size=4)
    counts = st.one_of(st.just(1), st.integers(1, most_rows))
    return case(
        draw(st.integers(0, 2**31)),
        draw(st.lists(st.tuples(lengths, st.integers(0, 50), counts), min_size=1, max_size=5)),
        kv_heads=draw(st.sampled_from([1, 2, 3])),
        group=draw(st.integers(1, 4)),
        d=draw(st.sampled_from(d)),
        bias=draw(st.sampled_from([None, 1.0, 20.0, 1e4, torch.inf])),
        layers=layers,
        small=draw(st.sampled_from([0.0, 0.5, 1.0])),
        bits=draw(st.sampled_from([4, 8])),
    )
