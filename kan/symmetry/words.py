"""Embedding and head under a group that exchanges words: one vector of c numbers a word, E[v][g] = e[g⁻¹·v].

So E[h·v] = h·E[v]. Words of one orbit share their numbers, each in an order of its own; what is left where it is by all
elements looks alike to all of them. Of the dense table's numbers one in n is free.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kan.kernels.operations import Product
from kan.symmetry.action import Action


class Embedding:
    """tokens [R] -> [R, n · c]"""

    def __init__(self, action: Action, weight: Tensor) -> None:
        """weight [words, c]"""
        self._weight = weight
        self._seen = _seen(action).to(weight.device)

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.embedding(self._seen[tokens], self._weight).flatten(1)


class Head:
    """x [R, n · c] -> logits [R, words]: E[v] · x = Σ_g e[g⁻¹·v] · x[g].

    For words that nothing moves this is e[v] · Σ_g x[g]; only the others are multiplied with every x[g].
    """

    def __init__(self, action: Action, weight: Tensor, product: Callable[[Tensor, Tensor | None], Product]) -> None:
        """weight [words, c]; `product` makes an ordinary layer of a part of it."""
        moved = torch.from_numpy(action.moved)
        fixed = torch.ones(action.points, dtype=torch.bool).index_fill(0, moved, False).nonzero().view(-1)
        self._order = action.group.order
        self._fixed = product(weight[fixed.to(weight.device)], None) if len(fixed) else None
        self._moved = product(weight[moved.to(weight.device)], None) if len(moved) else None
        self._places = torch.cat((fixed, moved)).argsort().to(weight.device)
        self._terms = _terms(action, moved).to(weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        rows, n, channels = len(x), self._order, x.shape[1] // self._order
        functions = x.reshape(rows, n, channels)
        parts = []
        if self._fixed is not None:
            parts.append(self._fixed(functions.sum(1)))
        if self._moved is not None:
            words = self._terms.shape[1]
            products = self._moved(x.reshape(rows * n, channels)).reshape(rows, n * words)
            parts.append(products.index_select(1, self._terms.reshape(-1)).reshape(rows, n, words).sum(1))
        return torch.cat(parts, dim=1).index_select(1, self._places)


def _seen(action: Action) -> Tensor:
    """[words, n]: g⁻¹·v"""
    return torch.from_numpy(action.table[action.group.inverses]).T.contiguous()


def _terms(action: Action, moved: Tensor) -> Tensor:
    """[n, moved]: where among the products [n, moved] of e[u] · x[g] those with u = g⁻¹·v are."""
    rank = torch.zeros(action.points, dtype=torch.int64).index_copy(0, moved, torch.arange(len(moved)))
    return rank[_seen(action)[moved]].T + len(moved) * torch.arange(action.group.order)[:, None]
