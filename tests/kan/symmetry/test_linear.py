"""Compressed linear layers against the dense matrix that they stand for, in float64; and that they commute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cpu.linear import Linear
from kan.kernels.operations import Product
from kan.symmetry.fourier import FourierLinear
from kan.symmetry.group import FiniteGroup, group_of
from kan.symmetry.linear import FOURIER_FROM, BlockedLinear, commuting, dense
from tests.kan.symmetry.models import moved

NAMES = (
    *("cyclic(1)", "cyclic(2)", "cyclic(7)", "cyclic(8)", "symmetric(3)", "dihedral(4)", "symmetric(4)"),
    *("cyclic(4) x cyclic(2)", "symmetric(3) x cyclic(3)", "dihedral(5) x cyclic(3)"),
)
MakeProduct = Callable[[FiniteGroup, Tensor, Tensor | None], Product]


def blocked(group: FiniteGroup, weight: Tensor, bias: Tensor | None) -> Product:
    return BlockedLinear(group, Linear(weight, bias))


both = pytest.mark.parametrize("make", [blocked, FourierLinear])


@dataclass(frozen=True)
class Case:
    """A layer of 3 or so channels in and out, a few rows, and an element of the group."""

    group: FiniteGroup
    weight: Tensor
    bias: Tensor | None
    x: Tensor
    residual: Tensor
    element: int

    @property
    def expected(self) -> Tensor:
        """By the dense matrix."""
        bias = 0.0 if self.bias is None else self.bias.repeat(self.group.order)
        return self.x @ dense(self.group, self.weight).T + bias


@st.composite
def cases(draw: st.DrawFn) -> Case:
    group = group_of(draw(st.sampled_from(NAMES)))
    inputs, outputs, rows = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n = group.order
    bias = noise(outputs) if draw(st.booleans()) else None
    element = draw(st.integers(0, n - 1))
    return Case(group, noise(outputs, n * inputs), bias, noise(rows, n * inputs), noise(rows, n * outputs), element)


@both
@settings(max_examples=40)
@given(case=cases())
def test_it_is_the_dense_product(make: MakeProduct, case: Case) -> None:
    product = make(case.group, case.weight, case.bias)
    torch.testing.assert_close(product(case.x), case.expected, atol=1e-11, rtol=1e-11)
    found = product.plus(case.x, case.residual)
    torch.testing.assert_close(found, case.expected + case.residual, atol=1e-11, rtol=1e-11)
    assert found.is_contiguous()
    assert product(case.x).is_contiguous()


@both
@settings(max_examples=40)
@given(case=cases())
def test_it_commutes_with_the_group(make: MakeProduct, case: Case) -> None:
    product = make(case.group, case.weight, case.bias)
    found = product(moved(case.x, case.group, case.element))
    torch.testing.assert_close(found, moved(product(case.x), case.group, case.element), atol=1e-11, rtol=1e-11)


@both
@settings(max_examples=40)
@given(case=cases())
def test_gradients_are_those_of_the_dense_product(make: MakeProduct, case: Case) -> None:
    leaves = [case.x, case.weight, *([] if case.bias is None else [case.bias])]
    for leaf in leaves:
        leaf.requires_grad_()
    found = torch.autograd.grad(make(case.group, case.weight, case.bias)(case.x), leaves, case.residual)
    expected = torch.autograd.grad(case.expected, leaves, case.residual)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_commutes(name: str) -> None:
    """All maps that commute are as many dimensions as the group has orbits on pairs (output, input): those it has."""
    group, inputs, outputs = group_of(name), 2, 3
    pairs = outputs * inputs * group.order
    acted = (group.table[:, :, None] * group.order + group.table[:, None, :]).reshape(group.order, -1)
    orbits = len(np.unique(acted.min(axis=0)))
    assert orbits * outputs * inputs == pairs
    free = torch.eye(pairs, dtype=torch.float64).view(pairs, outputs, inputs * group.order)
    written = torch.stack([dense(group, one).flatten() for one in free])
    assert int(torch.linalg.matrix_rank(written)) == pairs


@pytest.mark.parametrize(
    ("make", "dtype", "tolerance"),
    [(make, *kind) for make in (blocked, FourierLinear) for kind in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2))],
)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", ["cyclic(4) x cyclic(2)", "cyclic(8)", "symmetric(3)"])
def test_in_lower_precision(make: MakeProduct, dtype: torch.dtype, tolerance: float, rows: int, name: str) -> None:
    """Against float64, for inputs and outputs of deviation 1; a bfloat16 between 2 and 4 is off by 0.008 at most."""
    group, generator = group_of(name), torch.Generator().manual_seed(3)
    width = group.order * 16

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    weight, bias, x, residual = noise(16, width) / width**0.5, noise(16), noise(rows, width), noise(rows, width)
    plain = Linear(weight, bias, packed=False)
    product = BlockedLinear(group, plain) if make is blocked else make(group, weight, bias)
    expected = x.double() @ dense(group, weight.double()).T + bias.double().repeat(group.order)
    for found, right in ((product(x), expected), (product.plus(x, residual), expected + residual.double())):
        assert (found.dtype, found.is_contiguous()) == (dtype, True)
        assert (found.double() - right).abs().max() < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_the_transform_has_no_more_weights_to_read(name: str) -> None:
    weight = torch.randn(3, 5 * group_of(name).order)
    product = FourierLinear(group_of(name), weight)
    assert sum(size.weights.numel() for size in product._sizes) == weight.numel()


def test_the_transform_is_taken_where_it_pays() -> None:
    group = group_of("cyclic(2)")
    large, small = torch.zeros(1, FOURIER_FROM), torch.zeros(1, FOURIER_FROM - 2)
    assert isinstance(commuting(group, large, None, Linear), FourierLinear)
    assert isinstance(commuting(group, small, None, Linear), BlockedLinear)
    half = commuting(group, large.bfloat16(), None, lambda weight, bias: Linear(weight, bias, packed=False))
    assert isinstance(half, BlockedLinear)
