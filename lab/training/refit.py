"""Refitting φ's splines in closed form, so that the second of two gold facts is treated as the first.

Gradient steps alone do not find it: φ plays down whatever is behind the best fact, by so much that the little a second
fact adds to an answer's likelihood teaches nothing. Least squares over all mounted facts asks for it outright:

    a gold fact behind the best one    what φ would give it if it were the best
    a wrong fact behind the best one   what φ gives wrong facts on average (at least -FLOOR nats)
    the best fact                      what φ gives it now

with ridge towards the present splines and a penalty on their second differences. Only the splines of features that
tell gold from wrong facts (bridge, rest) can satisfy both of the first two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kan.knowledge.fit import Fit
from kan.knowledge.phi import FEATURES, RANGES, Floats, Phi, features, hat_basis

FLOOR = 6.0
"""Nats: a fact at so little attention is as good as absent, and need not be pushed further."""


@dataclass(frozen=True, slots=True)
class Mounting:
    """The fits of the facts of one question, best first, and the places of the gold ones."""

    fits: tuple[Fit, ...]
    gold: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RefitOptions:
    """Weights of the residuals and of the penalties, in the units of one wrong fact's residual."""

    gold: float = 8.0
    best: float = 3.0
    ridge: float = 1.0
    smoothness: float = 5.0


def refit(phi: Phi, mountings: Iterable[Mounting], head_dim: int, options: RefitOptions) -> Phi:
    """The same φ with other splines. Raises ValueError if no question has a gold fact behind its best one."""
    knots = phi.coefficients.shape[-1]
    scale = math.sqrt(head_dim)
    splines = phi.coefficients.permute(2, 3, 0, 1).flatten(2).flatten(0, 1).double() / scale
    rows = [_rows(mounting, splines, knots) for mounting in mountings if mounting.fits]
    basis, target, behind, best = (torch.cat(parts) for parts in zip(*rows, strict=True))
    if not bool(behind.any()):
        raise ValueError("no question has a second gold fact: there is nothing to refit")
    wrong = ~(behind | best)
    target[wrong] = target[wrong].mean(0)
    weights = torch.ones(len(basis), dtype=basis.dtype)
    weights[behind], weights[best] = options.gold, options.best
    weighted = basis * weights[:, None]
    penalties = options.ridge * torch.eye(basis.shape[1], dtype=basis.dtype) + options.smoothness * _roughness(knots)
    change = torch.linalg.solve(weighted.T @ basis + penalties, weighted.T @ (target - basis @ splines))
    shape = (len(FEATURES), knots, *phi.coefficients.shape[:2])
    coefficients = (scale * (splines + change)).view(shape).permute(2, 3, 0, 1)
    return replace(phi, coefficients=coefficients.float().contiguous())


def _rows(mounting: Mounting, splines: Tensor, knots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per fact: its basis [m, features·knots], its target [m, layers·heads], whether gold behind, whether best."""
    x = features(np.array(mounting.fits, np.float64))
    basis = _basis(x, knots)
    now = basis @ splines
    lead = FEATURES.index("lead")
    low, high = RANGES["lead"]
    none = -low / (high - low)
    gold = torch.zeros(len(x), dtype=torch.bool)
    gold[list(mounting.gold)] = True
    behind = gold & torch.from_numpy(x[:, lead] < none - 1e-6)
    as_best = x.copy()
    as_best[behind, lead] = none
    as_best[behind, FEATURES.index("relevance")] = x[:, FEATURES.index("relevance")].max()
    wanted = _basis(as_best, knots) @ splines
    best = torch.arange(len(x)) == 0
    target = torch.where((behind | best)[:, None], wanted, now.clamp(min=-FLOOR))
    return basis, target, behind, best


def _basis(x: Floats, knots: int) -> Tensor:
    """[m, features·knots] float64."""
    return torch.from_numpy(hat_basis(x, knots)).flatten(1)


def _roughness(knots: int) -> Tensor:
    """[features·knots]²: the sum of squared second differences of every spline, as a quadratic form."""
    second = torch.zeros(knots - 2, knots, dtype=torch.float64)
    for row in range(knots - 2):
        second[row, row : row + 3] = torch.tensor((1.0, -2.0, 1.0), dtype=torch.float64)
    return torch.kron(torch.eye(len(FEATURES), dtype=second.dtype), second.T @ second)
