"""A model's layers, made of its weights: ordinary ones, or ones that commute with the model's group.

A group of n elements acts on the hidden state, which is [n · c], c channels for each element: (h·x)[g] = x[h⁻¹g].
RMSNorm commutes with that if its weights are the same for all elements, SwiGLU does by itself. A head's d channels are
whole copies, too, as [2, n, c]: q·k is then a sum over the group, which no element changes, and RoPE turns each
element's channels alike. So attention, pages and φ are those of an ordinary model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.config import KANConfig
from kan.kernels.operations import Kernels, Product
from kan.rope import RotaryTable
from kan.symmetry.group import FiniteGroup
from kan.symmetry.linear import commuting
from kan.symmetry.words import Embedding, Head

Rows = Callable[[Tensor], Tensor]
Linear = Callable[[Tensor, Tensor | None], Product]
"""Of a weight [out, in] and a bias."""
Commuting = Callable[[FiniteGroup, Tensor, Tensor | None, Linear], Product]
"""Of a compressed weight and bias: as `kan.symmetry.linear.commuting`, or another way to compute the same."""


class Layers(Protocol):
    """Weights are as `kan.checkpoint.directory.expected_tensors` has them, [out / n, in]; bias [out / n] or None."""

    def embedding(self, weight: Tensor) -> Rows:
        """tokens [R] -> [R, hidden]"""
        ...

    def norm(self, weight: Tensor) -> Tensor:
        """[hidden]"""
        ...

    def qkv(self, weight: Tensor, bias: Tensor | None) -> Rows:
        """[R, hidden] -> [R, planes · d]"""
        ...

    def output(self, weight: Tensor, bias: Tensor | None) -> Product:
        """[R, H · d] -> [R, hidden]"""
        ...

    def gate_up(self, weight: Tensor, bias: Tensor | None) -> Rows:
        """[R, hidden] -> what `Kernels.swiglu` takes"""
        ...

    def down(self, weight: Tensor, bias: Tensor | None) -> Product:
        """What it returns -> [R, hidden]"""
        ...

    def head(self, weight: Tensor) -> Rows:
        """[R, hidden] -> [R, vocabulary]"""
        ...


def layers_of(config: KANConfig, kernels: Kernels, *, packed: bool) -> Layers:
    """The kernels' own layers, or ones that commute with `config.group` made of them."""
    linear = partial(kernels.linear, packed=packed)
    return OrdinaryLayers(linear) if config.group_order == 1 else EquivariantLayers(config, linear)


def rotary_table(config: KANConfig, dtype: torch.dtype, device: torch.device | None) -> RotaryTable:
    """Every element of the group has the angles of a head of d / n channels."""
    positions, theta = config.max_position_embeddings, config.rope_theta
    return RotaryTable(config.head_dim, positions, theta, dtype, device, copies=config.group_order)


class OrdinaryLayers:
    """`Layers` of a model without symmetry."""

    def __init__(self, linear: Linear) -> None:
        self._linear = linear

    def embedding(self, weight: Tensor) -> Rows:
        return lambda tokens: F.embedding(tokens, weight)

    def norm(self, weight: Tensor) -> Tensor:
        return weight

    def output(self, weight: Tensor, bias: Tensor | None) -> Product:
        return self._linear(weight, bias)

    qkv = gate_up = down = output

    def head(self, weight: Tensor) -> Rows:
        return self._linear(weight, None)


class EquivariantLayers:
    """`Layers` that commute with a group."""

    def __init__(self, config: KANConfig, linear: Linear, commuting: Commuting = commuting) -> None:
        self._action = config.vocabulary_action
        self._order = config.group_order
        self._head_dim = config.head_dim
        self._channels = config.head_dim // (2 * config.group_order)
        self._linear = linear
        self._product = commuting

    def embedding(self, weight: Tensor) -> Rows:
        return Embedding(self._action, weight)

    def norm(self, weight: Tensor) -> Tensor:
        return weight.repeat(self._order)

    def qkv(self, weight: Tensor, bias: Tensor | None) -> Rows:
        product = self._commuting(weight, bias)
        return lambda x: self._to_heads(product(x))

    def output(self, weight: Tensor, bias: Tensor | None) -> Product:
        return Rearranged(self._from_heads, self._commuting(weight, bias))

    def gate_up(self, weight: Tensor, bias: Tensor | None) -> Rows:
        """Gate and up of one element side by side: [R · n, 2 · ffn / n]."""
        product, outputs = self._commuting(weight, bias), len(weight)  # not the weight: it has been laid out anew
        return lambda x: product(x).view(len(x) * self._order, outputs)

    def down(self, weight: Tensor, bias: Tensor | None) -> Product:
        inputs = weight.shape[1]
        return Rearranged(lambda x: x.reshape(-1, inputs), self._commuting(weight, bias))

    def head(self, weight: Tensor) -> Rows:
        return Head(self._action, weight, self._linear)

    def _commuting(self, weight: Tensor, bias: Tensor | None) -> Product:
        return self._product(self._action.group, weight, bias, self._linear)

    def _to_heads(self, y: Tensor) -> Tensor:
        """[R, n · planes · d / n] -> [R, planes · d], a head's channels as [2, n, c]"""
        planes = y.shape[1] // self._head_dim
        return y.view(len(y), self._order, planes, 2, self._channels).permute(0, 2, 3, 1, 4).reshape(y.shape)

    def _from_heads(self, x: Tensor) -> Tensor:
        """The inverse."""
        heads = x.shape[1] // self._head_dim
        return x.reshape(len(x), heads, 2, self._order, self._channels).permute(0, 3, 1, 2, 4).reshape(x.shape)


class Rearranged:
    """A `Product` of rows in another layout."""

    def __init__(self, arrange: Rows, product: Product) -> None:
        self._arrange = arrange
        self._product = product

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(self._arrange(x))

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._product.plus(self._arrange(x), residual)
