"""A linear layer with its weight laid out once for the processor.

oneDNN otherwise lays it out anew in every call, which for one short text costs more than the product itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PACKABLE = (torch.bfloat16, torch.float32)


class PackedLinear:
    """y = x Wᵀ + b for x [..., in], W [out, in], b [out]; for inference on the CPU only."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias
        # The overloads by name: to find the right one by trial costs more than a small product.
        self._unary: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        self._binary: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        return self._unary(x, self._weight, self._bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(y), of the error function, not of its tanh approximation"""
        return self._unary(x, self._weight, self._bias, "gelu", [], "none")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """y + residual [..., out], the sum taken before rounding"""
        return self._binary(x, residual, self._weight, self._bias, "add")


def packable(weight: Tensor) -> bool:
    """Whether oneDNN has kernels for such a weight here."""
    return weight.device.type == "cpu" and weight.dtype in _PACKABLE and bool(torch._C._has_mkldnn)
