"""What `kan.model` runs on in training: linear layers and attention that are differentiable in φ and its adapter.

Weights and knowledge pages are constants, so only the rows of questions and replies are computed, and the backward
pass carries gradients of activations alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cpu.linear import Linear
from kan.config import KANConfig
from kan.kernels.torch_kernels import TorchKernels
from kan.model import KANModel
from kan.patterns import SqrtBlocks
from kan.rope import rotate
from lab.training.routed_mask import routed_mask


def frozen_model(
    config: KANConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | None = None
) -> KANModel:
    """The served model, with layers that carry gradients through but have none of their own."""
    kernels = TorchKernels(make_linear=FrozenLinear)
    return KANModel(config, weights, dtype=dtype, kernels=kernels, device=device)


class _FrozenProduct(torch.autograd.Function):
    """y = x Wᵀ (+ b) with both directions' weights laid out for the processor; no gradient for W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forwards: Linear, backwards: Linear) -> Tensor:
        ctx.backwards = backwards
        return forwards(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.backwards(grad.contiguous()), None, None


class FrozenLinear:
    """`Product` whose weight is a constant."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> None:
        self._forwards = Linear(weight, bias, packed=packed)
        self._backwards = Linear(weight.T.contiguous(), packed=packed)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = _FrozenProduct.apply(x, self._forwards, self._backwards)  # type: ignore[no-untyped-call]
        return y

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self(x)


@dataclass(frozen=True, slots=True)
class Rows:
    """The new tokens of S sequences, flat: sequence after sequence, R in all, at most n each.

    tokens, positions   [R] int64
    places              [R] int64: sequence · n + index in the sequence
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    sequences: int
    longest: int

    def to(self, device: torch.device) -> Rows:
        return replace(
            self, tokens=self.tokens.to(device), positions=self.positions.to(device), places=self.places.to(device)
        )

    @classmethod
    def of(cls, tokens: list[list[int]], first_positions: list[int]) -> Rows:
        """From one list of tokens per sequence and the position of each sequence's first."""
        longest = max(map(len, tokens))
        return cls(
            tokens=torch.tensor([token for one in tokens for token in one]),
            positions=torch.cat(
                [torch.arange(len(one)) + first for one, first in zip(tokens, first_positions, strict=True)]
            ),
            places=torch.cat([torch.arange(len(one)) + index * longest for index, one in enumerate(tokens)]),
            sequences=len(tokens),
            longest=longest,
        )


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the sequences attend to besides their own rows, padded to T columns.

    kv      [layers, 2, S, H_kv, T, d], keys after RoPE
    owner   [S, T] int64: 0 for the preamble, 1 + i for mounted fact i, -1 for padding
    """

    kv: Tensor
    owner: Tensor

    @classmethod
    def none(cls, model: KANModel, sequences: int) -> Knowledge:
        """No columns at all."""
        config = model.config
        shape = (config.num_layers, 2, sequences, config.num_kv_heads, 0, config.head_dim)
        owner = torch.empty(sequences, 0, dtype=torch.int64, device=model.device)
        return cls(torch.empty(shape, dtype=model.dtype, device=model.device), owner)


class DenseAttention:
    """`Attention` of rows on knowledge and, causally, on themselves: nothing is paged, and nothing outlives the pass.

    phi         [layers, H, S, 1 + facts] in q·k units, its first column (the preamble) zero; None for no bias
    pattern     what rows see of themselves: everything before, or √n blocks
    apart       [S, n, n] bool: pairs of rows of which the first does not see the second, though it comes before
    """

    def __init__(
        self,
        rows: Rows,
        knowledge: Knowledge,
        phi: Tensor | None,
        pattern: SqrtBlocks | None = None,
        apart: Tensor | None = None,
    ) -> None:
        self._rows = rows
        self._pattern = pattern
        self._knowledge = knowledge
        self._phi = phi
        self._mask = _mask(rows.longest, knowledge.owner, apart)

    def __call__(self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        known_keys, known_values = self._knowledge.kv[layer]
        sequences, kv_heads, _, d = known_keys.shape
        n = self._rows.longest
        heads = qkv.shape[1] - 2 * kv_heads
        padded = self._padded(torch.cat((rotate(qkv[:, :-kv_heads], cos, sin), qkv[:, -kv_heads:]), dim=1))
        queries = padded[:, :heads].reshape(sequences, kv_heads, -1, d)
        keys = torch.cat((known_keys, padded[:, heads:-kv_heads]), dim=2)
        values = torch.cat((known_values, padded[:, -kv_heads:]), dim=2)
        scores = (queries @ keys.transpose(2, 3)).view(sequences, heads, n, -1).to(cos.dtype) / math.sqrt(d)
        scores = self._biased(scores, layer, d)
        if self._pattern is not None:
            own = keys[:, :, known_keys.shape[2] :]
            seen = routed_mask(self._pattern, queries.view(sequences, kv_heads, -1, n, d), own)
            hidden = F.pad(~seen, (known_keys.shape[2], 0))
            scores = scores.view(sequences, kv_heads, -1, *scores.shape[2:])
            scores = scores.masked_fill(hidden.unsqueeze(2), -torch.inf).flatten(1, 2)
        weights = torch.softmax(scores, dim=-1).to(values.dtype)
        out = (weights.view(sequences, kv_heads, -1, weights.shape[-1]) @ values).view(sequences, heads, n, d)
        return out.transpose(1, 2).reshape(sequences * n, heads * d)[self._rows.places]

    def _padded(self, rows: Tensor) -> Tensor:
        """[R, heads, d] -> [S, heads, n, d]"""
        sequences, n = self._rows.sequences, self._rows.longest
        padded = rows.new_zeros(sequences * n, *rows.shape[1:]).index_copy(0, self._rows.places, rows)
        return padded.view(sequences, n, *rows.shape[1:]).transpose(1, 2)

    def _biased(self, scores: Tensor, layer: int, d: int) -> Tensor:
        scores = scores + self._mask.to(scores.dtype)
        if self._phi is None:
            return scores
        bias = F.pad(_spread(self._phi[layer], self._knowledge.owner), (0, self._rows.longest))
        return scores + bias.unsqueeze(2) / math.sqrt(d)


def _mask(n: int, owner: Tensor, apart: Tensor | None) -> Tensor:
    """owner [S, T] -> [S, 1, n, T + n]: 0 where a row may look, -inf elsewhere."""
    sequences, device = len(owner), owner.device
    knowledge = torch.zeros(owner.shape, device=device).masked_fill(owner < 0, -torch.inf)
    own = torch.full((n, n), -torch.inf, device=device).triu(1).expand(sequences, n, n)
    if apart is not None:
        own = own.masked_fill(apart, -torch.inf)
    return torch.cat((knowledge[:, None].expand(-1, n, -1), own), dim=-1).unsqueeze(1)


def _spread(phi: Tensor, owner: Tensor) -> Tensor:
    """phi [H, S, 1 + facts], owner [S, T] -> [S, H, T]."""
    index = owner.clamp(min=0).expand(phi.shape[0], *owner.shape)
    return phi.gather(2, index).transpose(0, 1)
