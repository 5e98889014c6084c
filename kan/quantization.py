"""Numbers in few bits: integers, and what turns each group of them into numbers again, its steps.

8 bits: integers from -127 to 127, and a scale. 4 bits: there are too few of them to give half to a side on which a
group has no numbers, as a channel of keys often has none. So they are counted from the group's least number, 0 to 15,
and steps are a scale and that least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Bits = Literal[4, 8]
LARGEST = {8: 127, 4: 15}
SCALE_TYPE = torch.bfloat16
"""Of steps, whatever the numbers' own type."""


def quantize(x: Tensor, dim: int, bits: Bits = 8) -> tuple[Tensor, Tensor]:
    """x -> integers of its shape (int8, of 4 bits uint8), and steps [1, ...] (scale) or [2, ...] (scale, least) of
    `SCALE_TYPE`, otherwise of the same shape but for `dim`, which is 1.

    x = integers · scale + least, to half a scale. A scale is max |x| / 127, or (max x - least) / 15, along `dim`,
    rounded up: never more than 2^-7 of itself above that. A least is rounded down, by 2^-7 of itself at most.
    """
    exact = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if bits == 8:
        scales = _rounded_up(exact.abs().amax(dim, keepdim=True) / LARGEST[8])
        integers = (exact / _divisors(scales, exact)).round_().clamp_(-LARGEST[8], LARGEST[8])
        return integers.to(torch.int8), scales[None]
    least = _rounded_down(exact.amin(dim, keepdim=True))
    above = exact - least.to(exact.dtype)
    scales = _rounded_up(above.amax(dim, keepdim=True) / LARGEST[4])
    integers = (above / _divisors(scales, exact)).round_().clamp_(0, LARGEST[4])
    return integers.to(torch.uint8), torch.stack((scales, least))


def dequantize(integers: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse, rounded to `dtype`."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    numbers = integers.to(exact) * steps[0].to(exact)
    return (numbers if len(steps) == 1 else numbers + steps[1].to(exact)).to(dtype)


def pack_nibbles(integers: Tensor, dim: int) -> Tensor:
    """Of 4 bits, two in a byte: the half along `dim` that comes first in the low ones. uint8, half as long."""
    first, second = integers.chunk(2, dim)
    return first | second << 4


def unpack_nibbles(packed: Tensor, dim: int) -> Tensor:
    """The inverse."""
    return torch.cat((packed & 15, packed >> 4), dim)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which numbers of keys and values, [..., tokens, H_kv, d], have steps in common.

    Keys have steps for each channel: one that is large is so in all tokens. Values differ from token to token, and have
    them for each of those.

    tokens     of a group of keys; None: all that there are
    channels   of a group of values; None: all
    """

    bits: Bits
    tokens: int | None
    channels: int | None

    @property
    def parts(self) -> int:
        """Of steps."""
        return 1 if self.bits == 8 else 2

    def key_groups(self, tokens: int) -> int:
        """Of so many tokens."""
        return 1 if self.tokens is None else -(-tokens // self.tokens)

    def value_groups(self, d: int) -> int:
        """Of a head of so many channels."""
        return 1 if self.channels is None or d % self.channels else d // self.channels

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integers of x's shape, and steps [parts, ..., groups, H_kv, d]."""
        tokens = x.shape[-3]
        groups = self.key_groups(tokens)
        size = self.tokens or tokens
        # What is missing in the last group is like its last token, and so changes none of its steps.
        places = torch.arange(groups * size).clamp_(max=tokens - 1)
        integers, steps = quantize(torch.unflatten(x.index_select(-3, places), -3, (groups, size)), -3, self.bits)
        return integers.flatten(-4, -3).narrow(-3, 0, tokens), steps.squeeze(-3)

    def values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Integers of x's shape, and steps [parts, ..., tokens, H_kv, groups]."""
        integers, steps = quantize(torch.unflatten(x, -1, (self.value_groups(x.shape[-1]), -1)), -1, self.bits)
        return integers.flatten(-2), steps.squeeze(-1)

    def widen_keys(self, integers: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse of `keys`."""
        tokens = integers.shape[-3]
        each = steps.repeat_interleave(self.tokens or tokens, -3).narrow(-3, 0, tokens)
        return dequantize(integers, each, dtype)

    def widen_values(self, integers: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse of `values`."""
        parted = torch.unflatten(integers, -1, (steps.shape[-1], -1))
        return dequantize(parted, steps.unsqueeze(-1), dtype).flatten(-2)


GROUPINGS: dict[Bits, Grouping] = {8: Grouping(8, None, None), 4: Grouping(4, 16, 32)}
"""Of page content. With 4 bits a step is 17 times as wide, so groups are small: 16 tokens, or 32 channels."""


def _divisors(scales: Tensor, exact: Tensor) -> Tensor:
    return torch.where(scales > 0, scales, 1).to(exact.dtype)


def _rounded_up(x: Tensor) -> Tensor:
    """To `SCALE_TYPE`, of numbers that are not negative."""
    rounded = x.to(SCALE_TYPE)
    next_up = (rounded.view(torch.int16) + 1).view(SCALE_TYPE)
    return torch.where(rounded.to(x.dtype) < x, next_up, rounded)


def _rounded_down(x: Tensor) -> Tensor:
    """To `SCALE_TYPE`, of any numbers."""
    return torch.where(x < 0, -_rounded_up(-x.clamp(max=0)), _truncated(x.clamp(min=0)))


def _truncated(x: Tensor) -> Tensor:
    """Rounded down, of numbers that are not negative."""
    rounded = x.to(SCALE_TYPE)
    next_down = (rounded.view(torch.int16) - 1).view(SCALE_TYPE)
    return torch.where(rounded.to(x.dtype) > x, next_down, rounded)
