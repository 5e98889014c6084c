"""Linear layers that commute with a group, their weights compressed: one free block for each element.

    y[g] = Σ_k W[k] x[g·k] + b        x, y: functions on the group, of c and o channels

A row is [n · c], the channels of element 0 first. (h·x)[g] = x[h⁻¹g] goes to (h·y). A weight is [o, n · c], the blocks
W[k] [o, c] side by side: n-fold fewer numbers than the dense matrix, whose block (g, h) is W[g⁻¹h].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kan.kernels.operations import Product
from kan.symmetry.fourier import FourierLinear
from kan.symmetry.group import FiniteGroup

FOURIER_FROM = 1 << 17
"""Numbers in a weight from which the transform pays (`kalmagrove bench layers`)."""

TRANSFORMED = (torch.float32, torch.float64)
"""In bfloat16 the blocked product is the faster one: it reads as little, and a processor that multiplies bfloat16 in
tiles does that as fast as many small products (`kalmagrove bench layers --dtype bfloat16`)."""


class BlockedLinear:
    """`Product` by one ordinary product: every row is laid out n times, as each element sees it."""

    def __init__(self, group: FiniteGroup, inner: Product) -> None:
        """`inner` of the weight [o, n · c] and the bias [o]."""
        self._order = group.order
        self._places = torch.from_numpy(group.table.reshape(-1))
        self._inner = inner

    def __call__(self, x: Tensor) -> Tensor:
        y = self._inner(self._seen(x))
        return y.view(len(x), self._order * y.shape[1])

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        rows, width = residual.shape
        by_element = residual.reshape(rows * self._order, width // self._order)
        return self._inner.plus(self._seen(x), by_element).view(rows, width)

    def _seen(self, x: Tensor) -> Tensor:
        """[R, n · c] -> [R · n, n · c]: for each g all x[g·k], one after the other."""
        rows, width = x.shape
        seen = x.reshape(rows, self._order, width // self._order).index_select(1, self._places.to(x.device))
        return seen.view(rows * self._order, width)


def commuting(
    group: FiniteGroup, weight: Tensor, bias: Tensor | None, product: Callable[[Tensor, Tensor | None], Product]
) -> Product:
    """The faster of the two for this weight; `product` makes an ordinary layer."""
    if weight.dtype in TRANSFORMED and weight.numel() >= FOURIER_FROM:
        return FourierLinear(group, weight, bias)
    return BlockedLinear(group, product(weight, bias))


def dense(group: FiniteGroup, weight: Tensor) -> Tensor:
    """The matrix [n · o, n · c] that a weight [o, n · c] stands for."""
    blocks = weight.view(len(weight), group.order, -1)
    places = torch.from_numpy(group.table[group.inverses])  # of g and h, where g⁻¹h is
    return blocks[:, places].permute(1, 0, 2, 3).reshape(group.order * len(weight), -1)
