"""`Kernels` of torch operations: any dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cpu.linear import Linear
from kan.config import KANConfig
from kan.kernels.block_means import BlockMeans
from kan.kernels.operations import Cache, Product
from kan.kernels.paged_cache import MakeAttention, PagedCache
from kan.kernels.routed_attention import RoutedAttention
from kan.kernels.torch_attention import TorchAttention
from kan.patterns import Pattern, SqrtBlocks, pattern_of
from kan.quantization import Bits


class TorchKernels:
    """Weights are laid out for oneDNN where it can (`cpu/linear.py`)."""

    name = "torch"

    def __init__(
        self, make_attention: MakeAttention | None = None, make_linear: Callable[..., Product] = Linear
    ) -> None:
        """Others than torch's own may be given: for the reference, for measurements, for training."""
        self._make_attention = make_attention
        self._make_linear = make_linear

    def new_cache(self, config: KANConfig, pages: int, dtype: torch.dtype, small_bits: Bits = 8) -> Cache:
        pattern = pattern_of(config)
        make_attention = self._make_attention or _attention(config, pattern, pages, dtype)
        return PagedCache(config, pattern, pages, dtype, make_attention, small_bits)

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> Product:
        return self._make_linear(weight, bias, packed=packed)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


def _attention(config: KANConfig, pattern: Pattern, pages: int, dtype: torch.dtype) -> MakeAttention:
    if isinstance(pattern, SqrtBlocks):
        return partial(RoutedAttention, BlockMeans(config, pattern, pages, dtype))
    return TorchAttention
