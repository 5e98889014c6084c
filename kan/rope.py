"""Rotary position embedding (Su et al., 2021), half-split layout as in the Llama family."""

from __future__ import annotations

import torch
from torch import Tensor


class RotaryTable:
    """cos and sin for every position, float32 (float64 for a float64 model): two tensors [positions, head_dim / 2]."""

    def __init__(self, head_dim: int, positions: int, theta: float, dtype: torch.dtype) -> None:
        exact = torch.float64
        inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=exact) / head_dim)
        angles = torch.arange(positions, dtype=exact)[:, None] * inverse
        compute = exact if dtype == exact else torch.float32
        self.cos = angles.cos().to(compute)
        self.sin = angles.sin().to(compute)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [rows] -> cos, sin [rows, 1, head_dim / 2], ready to broadcast over heads."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, heads, head_dim] -> the same, rotated. Computed in the table's precision, returned in x's."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
