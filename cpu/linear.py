"""A linear layer with its weight laid out once for the processor.

oneDNN otherwise lays it out anew in every call, which for the small products of decoding, or of one short text, costs
as much as the product itself. The reordered copy replaces the plain one, so memory stays the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PACKABLE = (torch.bfloat16, torch.float32)


class Linear:
    """y = x Wᵀ + b for x [..., in]; W [out, in]; b [out] or None. For inference; plain torch where it cannot pack."""

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

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(y), of the error function, not of its tanh approximation"""
        if self._packed:
            return self._unary(x, self._weight, self._bias, "gelu", [], "none")
        return F.gelu(F.linear(x, self._weight, self._bias))

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """y + residual [..., out], the sum taken before rounding where the kernel can."""
        if self._packed:
            return self._binary(x, residual, self._weight, self._bias, "add")
        return residual + F.linear(x, self._weight, self._bias)


def can_pack(weight: Tensor) -> bool:
    """True where oneDNN has a kernel for this weight (CPU, contiguous, fp32; bf16 if the processor knows it)."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in PACKABLE
        and bool(torch._C._has_mkldnn)
        and weight.is_contiguous()
        and (weight.dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    )
