"""The same linear layers by the group's Fourier transform: as few weights to read, and far fewer multiplications.

A function on the group becomes one matrix x̂(ρ) [d, d] for each irreducible representation ρ, and the layer one matrix
Ŵ(ρ) [d · o, d · c] = Σ_k ρ(k) ⊗ W[k] that every row of x̂(ρ) is multiplied by. Of n² blocks multiplied Σ d³ are left.
Where ρ has a complex structure, Ŵ = A + iB, and both are applied to both halves of x̂: four products of real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kan.kernels.paged_cache import exact_type
from kan.symmetry.group import FiniteGroup
from kan.symmetry.spectrum import Irreducibles, spectrum


@dataclass(frozen=True, slots=True, eq=False)
class _Size:
    """All representations of one kind and size: k of them, d² rows of x̂ in each part.

    weights     [k, d · c, parts · d · o]: in this order a product with few rows reads them fastest, from end to end
    synthesis   [n, k · parts · d · parts · d]: from the products back to functions on the group; float32 at the least
    """

    k: int
    parts: int
    d: int
    weights: Tensor
    synthesis: Tensor

    @property
    def inputs(self) -> tuple[int, int, int]:
        """x̂ of one row, as the weights want it."""
        return self.k, self.parts * self.d, self.weights.shape[1]

    @classmethod
    def of(cls, kind: Irreducibles, blocks: Tensor, synthesis: Tensor) -> _Size:
        k, parts = kind.parts.shape[:2]
        return cls(k, parts, kind.size, _spectral(kind, blocks), synthesis)

    def multiply(self, x: Tensor) -> Tensor:
        """x̂ [k · parts · d · d, R, c] as the weights -> products [k · parts · d · parts · d, R · o] as `synthesis`."""
        k, parts, d = self.k, self.parts, self.d
        rows, channels = x.shape[1:]
        by_row = x.view(k, parts * d, d, rows, channels).transpose(2, 3).reshape(k, parts * d * rows, d * channels)
        outputs = self.weights.shape[2] // (parts * d)
        products = torch.bmm(by_row, self.weights).view(k, parts * d, rows, parts * d, outputs)
        return products.transpose(2, 3).reshape(k * parts * d * parts * d, rows * outputs).to(self.synthesis.dtype)


class FourierLinear:
    """`Product` of a weight [o, n · c], as `kan.symmetry.linear` lays it out; bias [o].

    In bfloat16 the products alone are: the transforms, which take little of the time, are computed in float32, and what
    goes into a product is rounded once, as what comes out of it.
    """

    def __init__(self, group: FiniteGroup, weight: Tensor, bias: Tensor | None = None) -> None:
        blocks = weight.view(len(weight), group.order, -1)
        like = partial(torch.tensor, dtype=exact_type(weight.dtype), device=weight.device)
        kinds = spectrum(group)
        self._order, self._outputs, self._dtype = group.order, len(weight), weight.dtype
        self._analysis = like(np.concatenate([one.transform for one in kinds]))
        self._sizes = [_Size.of(one, blocks, like(_back(one))) for one in kinds]
        self._synthesis = torch.cat([one.synthesis for one in self._sizes], dim=1)
        self._counts = [len(one.transform) for one in kinds]
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(x).to(self._dtype).contiguous().flatten(1)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        y = self._product(x)
        return (residual.reshape(y.shape) + y).view(residual.shape).to(self._dtype)

    def _product(self, x: Tensor) -> Tensor:
        """[R, n · c] -> [R, n, o], strided"""
        if len(x) == 1:  # nothing need be laid out anew: without the calls for that it takes three quarters of the time
            return self._of_one(x)
        rows, n, channels = len(x), self._order, x.shape[1] // self._order
        functions = x.reshape(rows, n, channels).transpose(0, 1).reshape(n, rows * channels)
        spectra = self._transformed(functions).view(n, rows, channels)
        y: Tensor | None = None
        for size, one in zip(self._sizes, torch.split(spectra, self._counts), strict=True):
            products = size.multiply(one)
            y = torch.mm(size.synthesis, products) if y is None else torch.addmm(y, size.synthesis, products)
        assert y is not None, "every group has a representation"
        values = y.view(n, rows, self._outputs).transpose(0, 1)
        return values if self._bias is None else values + self._bias

    def _transformed(self, functions: Tensor) -> Tensor:
        """[n, …] -> the same, of the weights' type."""
        return torch.mm(self._analysis, functions.to(self._analysis.dtype)).to(self._dtype)

    def _of_one(self, x: Tensor) -> Tensor:
        """The same for one row."""
        spectra = self._transformed(x.reshape(self._order, -1))
        products = [
            torch.bmm(one.view(size.inputs), size.weights).view(size.synthesis.shape[1], -1)
            for size, one in zip(self._sizes, torch.split(spectra, self._counts), strict=True)
        ]
        joined = products[0] if len(products) == 1 else torch.cat(products)
        y = torch.mm(self._synthesis, joined.to(self._synthesis.dtype))
        return (y if self._bias is None else y + self._bias).unsqueeze(0)


def _spectral(kind: Irreducibles, blocks: Tensor) -> Tensor:
    """blocks [o, n, c] -> `_Size.weights`"""
    parts = torch.tensor(kind.parts, dtype=torch.float64, device=blocks.device)
    k, count, _, d, _ = parts.shape
    transformed = torch.einsum("kpgjl,ogc->klcpjo", parts, blocks.double())
    return transformed.reshape(k, d * blocks.shape[2], count * d * len(blocks)).to(blocks.dtype)


def _back(kind: Irreducibles) -> np.ndarray:
    """`_Size.synthesis`. With x̂ = (p, q) and Ŵ = A + iB: ŷ = (A p - B q, B p + A q)."""
    k, parts, n, d, _ = kind.parts.shape
    functions = kind.transform.reshape(k, parts, d, d, n)
    if not kind.complex:
        return functions.reshape(-1, n).T
    first, second = functions[:, 0], functions[:, 1]
    found = np.stack((np.stack((first, second), 2), np.stack((second, -first), 2)), 1)
    return found.reshape(-1, n).T
