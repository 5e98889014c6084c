"""What a model asks of whatever computes it: layers' operations, a cache, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kan.attention import SequenceRows
from kan.config import KANConfig
from kan.quantization import Bits


class Product(Protocol):
    """A linear layer: x [rows, in] -> [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b"""
        ...

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """x Wᵀ + b + residual [rows, out]"""
        ...


class Attention(Protocol):
    """Attention of one step's rows, made ready once for all layers."""

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """qkv [R, H + 2·H_kv, d] before RoPE, cos and sin [R, 1, d] of `RotaryTable.at` -> [R, H·d].

        What later rows are to see of these is remembered. qkv stays as it is.
        """
        ...


class PagedAttention(Attention, Protocol):
    """The same over a paged cache, which keeps the rows' keys and values."""

    @property
    def masses(self) -> Sequence[Tensor]:
        """Per sequence [parts]: attention of its last row on each mounted part, summed over heads and layers so far."""
        ...


class Cache(Protocol):
    """Keys (after RoPE) and values of every page, in the layout, type and memory that its kernels want."""

    def write(self, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Fill pages with keys and values [layers, tokens, H_kv, d]."""
        ...

    def write_small(self, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """The same in as few bits as the cache's small pages have: `kan/kernels/small_pages.py` says how, and how many
        tokens such a page takes."""
        ...

    def attention(self, sequences: Sequence[SequenceRows]) -> PagedAttention:
        """For a step whose rows are those of `sequences`, one after the other.

        Any order is right; neighbours of one row and like length may be faster.
        """
        ...


class Kernels(Protocol):
    """All tensors are in the model's dtype, except where said; no input is written to."""

    @property
    def name(self) -> str: ...

    def new_cache(self, config: KANConfig, pages: int, dtype: torch.dtype, small_bits: Bits = 8) -> Cache:
        """An empty cache of so many pages. `small_bits`: of those that are small."""
        ...

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> Product:
        """x [R, in] -> x Wᵀ + b [R, out]. `packed`: the weight may be laid out anew for the processor."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [R, hidden] divided by its root mean square, times weight [hidden]."""
        ...

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """gate_up [R, 2·width] -> silu(gate) · up [R, width]."""
        ...
