"""The compiled linear layer against the product in float64, on the same bfloat16 input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cpu.linear import Linear
from kan.kernels.native import NativeKernels, NativeLinear
from tests.kan.attention_case import noise
from tests.kan.test_native import ROUND, ROUND32, needs_native, threads, within
from tests.tiny import tiny_config

__all__ = ["threads"]


@pytest.fixture(scope="module", params=[True, False], ids=["tiles", "vectors"])
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    """By the matrix unit, where there is one, and without it."""
    needs_native()
    native = NativeKernels(tiny_config(head_dim=64), torch.bfloat16, tiles=request.param)
    if native.tiles != request.param:
        pytest.skip("this processor has no AMX")
    return native


def exact(x: Tensor, weight: Tensor, *added: Tensor | None) -> tuple[Tensor, Tensor]:
    """The result in float64, and how far one rounding to bfloat16 and float32 sums may take it."""
    terms = [x.double() @ weight.double().T, *(term.double() for term in added if term is not None)]
    size = x.double().abs() @ weight.double().abs().T + sum(term.abs() for term in terms[1:])
    result = torch.stack(torch.broadcast_tensors(*terms)).sum(0)
    return result, ROUND * result.abs() + 2 * (x.shape[1] + 4) * ROUND32 * size


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    blocks=st.integers(1, 5),
    pairs=st.integers(1, 70) | st.sampled_from([16, 32, 48, 96]),  # those that fill the matrix unit's tiles
    biased=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_every_shape(kernels: NativeKernels, rows: int, blocks: int, pairs: int, biased: bool, seed: int) -> None:
    x, weight = noise(seed, rows, 2 * pairs), noise(seed + 1, 32 * blocks, 2 * pairs)
    bias = noise(seed + 2, 32 * blocks) if biased else None
    residual = noise(seed + 3, rows, 32 * blocks)
    layer = kernels.linear(weight, bias)
    assert isinstance(layer, NativeLinear)
    assert within(layer(x), *exact(x, weight, bias))
    assert within(layer.plus(x, residual), *exact(x, weight, bias, residual))


def test_a_row_is_the_same_in_any_company(kernels: NativeKernels, threads: None) -> None:
    x, layer = noise(1, 64, 576), kernels.linear(noise(2, 960, 576))
    together = layer(x)
    for rows in (1, 2, 13, 14, 15, 16, 17, 29, 32, 33, 63):
        assert torch.equal(layer(x[:rows]), together[:rows])
    torch.set_num_threads(1)
    assert torch.equal(layer(x), together)


@pytest.mark.parametrize("shape", [(48, 64), (64, 33)], ids=["outputs", "inputs"])
def test_other_shapes_are_torchs(kernels: NativeKernels, shape: tuple[int, int]) -> None:
    weight, x = noise(1, *shape), noise(2, 3, shape[1])
    layer = kernels.linear(weight)
    assert isinstance(layer, Linear)
    assert within(layer(x), *exact(x, weight))


def test_wrong_input_is_refused(kernels: NativeKernels) -> None:
    layer = kernels.linear(noise(1, 64, 32))
    for x in (noise(2, 3, 34), noise(2, 3, 32).float(), noise(2, 32, 3).T):
        with pytest.raises(ValueError, match="expected"):
            layer(x)
    for residual in (noise(2, 4, 64), noise(2, 3, 32)):
        with pytest.raises(ValueError, match="expected"):
            layer.plus(noise(2, 3, 32), residual)
