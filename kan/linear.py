"""Linear layers with weights laid out once for the processor.

oneDNN can reorder a weight into its own blocked format ahead of time, which roughly halves the cost of the small
matrix products of decoding (README, "Speed"). The reordered copy replaces the plain one, so memory stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

PACKABLE = (torch.bfloat16, torch.float32)


class Product(Protocol):
    """A linear layer: x [rows, in] -> [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ + b"""
        ...

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """x Wᵀ + b + residual [rows, out]"""
        ...


class Linear:
    """`Product` of torch: y = x Wᵀ + b for x [rows, in]; W [out, in]; b [out] or None."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> None:
        self._bias = bias
        self._packed = packed and can_pack(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight
        # The overloads by name: to find the right one by trial costs more than a small product.
        self._unary: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        self._binary: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed:
            return self._unary(x, self._weight, self._bias, "none", [], "")
        return F.linear(x, self._weight, self._bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """x Wᵀ + b + residual, the sum taken before rounding where the kernel can."""
        if self._packed:
            return self._binary(x, residual, self._weight, self._bias, "add")
        return residual + F.linear(x, self._weight, self._bias)


def can_pack(weight: Tensor) -> bool:
    """True where oneDNN has a kernel for this weight (CPU, contiguous, bf16 or fp32)."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in PACKABLE
        and bool(torch._C._has_mkldnn)
        and weight.is_contiguous()
    )
