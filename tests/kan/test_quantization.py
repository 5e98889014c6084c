"""Numbers in 8 bits: how far they may be from what they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.quantization import LARGEST, dequantize, quantize


@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 300.0, 1e30]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 6)),
    dim=st.integers(0, 2),
)
def test_nothing_moves_by_more_than_half_a_scale(
    seed: int, scale: float, shape: tuple[int, int, int], dim: int
) -> None:
    x = scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    integers, scales = quantize(x, dim)
    largest = x.abs().amax(dim, keepdim=True)
    assert (scales.double() <= largest / LARGEST * (1 + 2**-7)).all()
    assert (integers.abs() <= LARGEST).all()
    moved = (dequantize(integers, scales, torch.float64) - x).abs()
    assert (moved <= scales.double() * (0.5 + 1e-9)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_stays_the_largest_and_zero_is_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([[3.0, -7.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    integers, scales = quantize(x, 1)
    assert integers.tolist()[0][1:] == [-LARGEST, 0]
    assert scales[1] == 0
    assert dequantize(integers, scales, dtype).dtype == dtype
    assert not dequantize(integers, scales, dtype)[1].any()
