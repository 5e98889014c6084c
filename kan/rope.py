"""Rotary position embedding (Su et al., 2021), half-split layout as in the Llama family."""

from __future__ import annotations

import torch
from torch import Tensor


class RotaryTable:
    """cos and sin for every position, float32 (float64 for a float64 model): two tensors [positions, head_dim].

    Both halves of a row hold the same angles; the sine's first half is negated, as `rotate` wants it. With `copies`, a
    half is as many copies, one after the other, of what a head of head_dim / copies would have.
    """

    def __init__(
        self,
        head_dim: int,
        positions: int,
        theta: float,
        dtype: torch.dtype,
        device: torch.device | None = None,
        copies: int = 1,
    ) -> None:
        exact = torch.float64
        inverse = theta ** (-torch.arange(0, head_dim, 2 * copies, dtype=exact) / head_dim).repeat(copies)
        angles = torch.arange(positions, dtype=exact)[:, None] * inverse
        compute = exact if dtype == exact else torch.float32
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(device, compute)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(device, compute)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [rows] -> cos, sin [rows, 1, head_dim], ready to broadcast over heads."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, heads, head_dim] -> the same, rotated. Computed in the table's precision, returned in x's."""
    exact = x.to(cos.dtype)
    swapped = exact.roll(exact.shape[-1] // 2, dims=-1)
    return torch.addcmul(exact * cos, swapped, sin).to(x.dtype)
