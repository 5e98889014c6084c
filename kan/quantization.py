"""Numbers in 8 bits: integers from -127 to 127, and a scale for each group of them."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127
SCALE_TYPE = torch.bfloat16
"""Of scales, whatever the numbers' own type: half a bit of their precision is lost by it."""


def quantize(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """x -> int8 of its shape, and scales (`SCALE_TYPE`) of the same shape but for `dim`, which is 1.

    x = integers · scale, to half a scale. A scale is max |x| / 127 along `dim`, rounded up: never more than 2^-7 of
    itself above that.
    """
    exact = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    scales = _rounded_up(exact.abs().amax(dim, keepdim=True) / LARGEST)
    steps = torch.where(scales > 0, scales, 1).to(exact.dtype)
    return (exact / steps).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scales


def dequantize(integers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse, rounded once, to `dtype`."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return (integers.to(exact) * scales.to(exact)).to(dtype)


def _rounded_up(x: Tensor) -> Tensor:
    """To `SCALE_TYPE`, of numbers that are not negative."""
    rounded = x.to(SCALE_TYPE)
    next_up = (rounded.view(torch.int16) + 1).view(SCALE_TYPE)
    return torch.where(rounded.to(x.dtype) < x, next_up, rounded)
