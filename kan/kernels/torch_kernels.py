"""`Kernels` of torch operations: any dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cpu.linear import Linear
from kan.config import KANConfig
from kan.kernels.operations import Cache, Product
from kan.kernels.paged_cache import MakeAttention, PagedCache
from kan.kernels.torch_attention import TorchAttention


class TorchKernels:
    """Weights are laid out for oneDNN where it can (`cpu/linear.py`)."""

    name = "torch"

    def __init__(
        self, make_attention: MakeAttention = TorchAttention, make_linear: Callable[..., Product] = Linear
    ) -> None:
        """Others than torch's may be given: for the reference, for measurements, for training."""
        self._make_attention = make_attention
        self._make_linear = make_linear

    def new_cache(self, config: KANConfig, pages: int, dtype: torch.dtype) -> Cache:
        return PagedCache(config, pages, dtype, self._make_attention)

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> Product:
        return self._make_linear(weight, bias, packed=packed)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
