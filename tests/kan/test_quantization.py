"""Numbers in few bits: how far they may be from what they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.quantization import GROUPINGS, LARGEST, Bits, dequantize, pack_nibbles, quantize, unpack_nibbles

BITS = st.sampled_from([4, 8])
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 6))
SEEDS = st.integers(0, 2**31)


@given(
    seed=SEEDS,
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 300.0, 1e30]),
    aside=st.sampled_from([0.0, 5.0, -5.0]),
    shape=SHAPES,
    dim=st.integers(0, 2),
    bits=BITS,
)
def test_nothing_moves_by_more_than_half_a_scale(
    seed: int, scale: float, aside: float, shape: tuple[int, int, int], dim: int, bits: Bits
) -> None:
    x = scale * (aside + torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    integers, steps = quantize(x, dim, bits)
    scales = steps[0].double()
    if bits == 8:
        widest = x.abs().amax(dim, keepdim=True)
        assert (integers.abs() <= LARGEST[bits]).all()
    else:
        least = x.amin(dim, keepdim=True)
        assert (steps[1].double() <= least).all()
        assert (steps[1].double() >= least - 2**-7 * least.abs()).all()
        widest = x.amax(dim, keepdim=True) - steps[1].double()
        assert (integers <= LARGEST[bits]).all()
    assert (scales <= widest / LARGEST[bits] * (1 + 2**-7)).all()
    moved = (dequantize(integers, steps, torch.float64) - x).abs()
    assert (moved <= scales * (0.5 + 1e-9) + 1e-15 * x.abs()).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_stays_the_largest_and_zero_is_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([[3.0, -7.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    integers, (scales,) = quantize(x, 1)
    assert integers.tolist()[0][1:] == [-LARGEST[8], 0]
    assert scales[1] == 0
    for bits in (4, 8):
        integers, steps = quantize(x, 1, bits)
        assert dequantize(integers, steps, dtype).dtype == dtype
        assert not dequantize(integers, steps, dtype)[1].any()


@pytest.mark.parametrize("constant", [0.0, 3.0, -3.0, 0.1, -0.1, 1e-30])
def test_equal_numbers_in_4_bits(constant: float) -> None:
    """As if it were one: the scale is what the least was rounded by, or nothing."""
    x = torch.full((1, 20), constant, dtype=torch.float64)
    integers, steps = quantize(x, 1, 4)
    assert integers.unique().numel() == 1
    assert (dequantize(integers, steps, torch.float64) - x).abs().max() <= 2**-7 * abs(constant)


@given(seed=SEEDS, shape=SHAPES, dim=st.integers(0, 2))
def test_what_is_unpacked_is_what_was_packed(seed: int, shape: tuple[int, int, int], dim: int) -> None:
    even = tuple(2 * size if place == dim else size for place, size in enumerate(shape))
    integers = torch.randint(0, 16, even, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    packed = pack_nibbles(integers, dim)
    assert packed.dtype == torch.uint8
    assert packed.shape == shape
    assert torch.equal(unpack_nibbles(packed, dim), integers)


@given(seed=SEEDS, tokens=st.integers(1, 70), d=st.sampled_from([6, 32, 64]), bits=BITS)
def test_groups_of_keys_and_values(seed: int, tokens: int, d: int, bits: Bits) -> None:
    """Each is rounded as if it were alone, and has its place among the others."""
    x = torch.randn(2, tokens, 3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    grouping = GROUPINGS[bits]
    size, channels = (16, 32 if d % 32 == 0 else d) if bits == 4 else (tokens, d)
    integers, steps = grouping.keys(x)
    found = grouping.widen_keys(integers, steps, torch.float64)
    assert steps.shape == (grouping.parts, 2, -(-tokens // size), 3, d)
    for start in range(0, tokens, size):
        group = x[:, start : start + size]
        assert torch.equal(found[:, start : start + size], dequantize(*quantize(group, 1, bits), torch.float64))
    integers, steps = grouping.values(x)
    found = grouping.widen_values(integers, steps, torch.float64)
    assert steps.shape == (grouping.parts, 2, tokens, 3, d // channels)
    for start in range(0, d, channels):
        group = x[..., start : start + channels]
        assert torch.equal(found[..., start : start + channels], dequantize(*quantize(group, 3, bits), torch.float64))
