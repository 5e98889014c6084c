"""What a decoder layer computes, behind one protocol; and torch's implementation."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from kan.attention import Kernel
from kan.kernels import cpu
from kan.linear import Linear, Product
from kan.rope import rotate


class Kernels(Protocol):
    """All tensors are in the model's dtype, except where said; nothing but `kv` and `mass` is written to."""

    @property
    def name(self) -> str: ...

    @property
    def attention(self) -> Kernel: ...

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> Product:
        """x [R, in] -> x Wᵀ + b [R, out]. `packed`: the weight may be laid out anew for the processor."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [R, hidden] divided by its root mean square, times weight [hidden]."""
        ...

    def rotate_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, kv: Tensor) -> Tensor:
        """qkv [R, H + 2·H_kv, d] -> rotated queries [R, H, d]; rotated keys and plain values go to kv at slots [R].

        cos and sin [R, 1, d] as `RotaryTable.at` gives them; kv [2, H_kv, pages, PAGE_SIZE, d]. qkv stays as it is.
        """
        ...

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """gate_up [R, 2·width] -> silu(gate) · up [R, width]."""
        ...


class TorchKernels:
    """`Kernels` of torch operations: any dtype, any processor."""

    name = "torch"

    def __init__(self, attention: Kernel = cpu.paged_attention) -> None:
        self.attention = attention

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> Product:
        return Linear(weight, bias, packed=packed)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    def rotate_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, kv: Tensor) -> Tensor:
        kv_heads = kv.shape[1]
        rotated = rotate(qkv[:, :-kv_heads], cos, sin)
        store(kv, slots, rotated[:, -kv_heads:], qkv[:, -kv_heads:])
        return rotated[:, :-kv_heads]

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


def store(kv: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Write rotated keys and values, both [R, H_kv, d], into one layer's cache at slots [R]."""
    flat = kv.flatten(2, 3)
    flat[0].index_copy_(1, slots, keys.transpose(0, 1))
    flat[1].index_copy_(1, slots, values.transpose(0, 1))
