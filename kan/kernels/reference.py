"""Eq. 1 written plainly, in float64: one sequence, one head and one row at a time. The truth for every other kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def paged_attention(q: Tensor, kv: Tensor, pages: Tensor, mask: Tensor, phi: Tensor | None, mass: Tensor) -> Tensor:
    """See `kan.attention.Kernel`."""
    sequences, n, heads, d = q.shape
    group = heads // kv.shape[1]
    out = torch.empty(q.shape, dtype=torch.float64)
    for s in range(sequences):
        for h in range(heads):
            keys, values = kv[:, h // group, pages[s]].double().reshape(2, -1, d)
            bias = torch.zeros(len(keys), dtype=torch.float64)
            if phi is not None:
                bias[: phi.shape[-1]] = phi[h, s].double()
            for row in range(n):
                scores = (keys @ q[s, row, h].double() + bias) / math.sqrt(d) + mask[s, row].double()
                weights = torch.softmax(scores, dim=0)
                out[s, row, h] = weights @ values
                if row == n - 1:
                    mass[s] += weights[: mass.shape[1]].to(mass.dtype)
    return out.to(q.dtype)
