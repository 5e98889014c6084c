"""The decoder of `kan.model` once more, differentiable in φ: what training needs and serving does not.

Weights and knowledge pages are constants, so only the rows of questions and replies are computed, and the backward
pass carries gradients of activations alone. Tests compare it with `kan.model` in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.config import KANConfig
from kan.linear import Linear
from kan.model import Layer
from kan.rope import RotaryTable, rotate


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


class _FrozenProduct(torch.autograd.Function):
    """y = x Wᵀ (+ b) with both directions' weights laid out for the processor; no gradient for W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forwards: Linear, backwards: Linear) -> Tensor:
        ctx.backwards = backwards
        return forwards(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.backwards(grad.contiguous()), None, None


class _FrozenLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._forwards = Linear(weight, bias)
        self._backwards = Linear(weight.T.contiguous())

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = _FrozenProduct.apply(x, self._forwards, self._backwards)  # type: ignore[no-untyped-call]
        return y


class FrozenDecoder:
    """Weights in one dtype on one device. Everything it is given must be on that device."""

    def __init__(
        self, config: KANConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device or torch.device("cpu")
        cast = {name: tensor.to(self.device, dtype) for name, tensor in weights.items()}
        table = RotaryTable(config.head_dim, config.max_position_embeddings, config.rope_theta, dtype)
        table.cos, table.sin = table.cos.to(self.device), table.sin.to(self.device)
        self._rotary = table
        self._embedding = cast["model.embed_tokens.weight"]
        self._layers = [Layer(cast, index, _FrozenLinear) for index in range(config.num_layers)]
        self._norm_weight = cast["model.norm.weight"]
        self._head = _FrozenLinear(self._embedding if config.tie_word_embeddings else cast["lm_head.weight"])

    def hidden(self, rows: Rows, knowledge: Knowledge, phi: Tensor | None, captured: list[Tensor] | None) -> Tensor:
        """[R, hidden]. phi [layers, H, S, 1 + facts] in q·k units, its first column (the preamble) zero.

        If a list is given, each layer appends the rows' keys (before RoPE) and values, [2, R, H_kv, d].
        """
        x = F.embedding(rows.tokens, self._embedding)
        cos, sin = self._rotary.at(rows.positions)
        mask = _mask(rows.longest, knowledge.owner).to(cos.dtype)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._norm(x, layer.input_norm))
            bias = None if phi is None else _spread(phi[index], knowledge.owner)
            if captured is not None:
                captured.append(self._keys_and_values(qkv))
            attended = self._attend(qkv, rows, knowledge.kv[index], mask, bias, cos, sin)
            x = x + layer.o(attended)
            gate, up = layer.gate_up(self._norm(x, layer.post_norm)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [R, hidden] -> [R, vocabulary], float32 (float64 for a float64 model)."""
        out = self._head(self._norm(hidden, self._norm_weight))
        return out if self.dtype == torch.float64 else out.float()

    def empty_knowledge(self, sequences: int) -> Knowledge:
        """No columns at all."""
        config = self.config
        shape = (config.num_layers, 2, sequences, config.num_kv_heads, 0, config.head_dim)
        return Knowledge(
            torch.empty(shape, dtype=self.dtype, device=self.device),
            torch.empty(sequences, 0, dtype=torch.int64, device=self.device),
        )

    def rotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """keys [..., T, H_kv, d] of tokens at positions [T] -> the same after RoPE."""
        return rotate(keys, *self._rotary.at(positions))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def _attend(
        self, qkv: Tensor, rows: Rows, knowledge: Tensor, mask: Tensor, bias: Tensor | None, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Eq. 1. -> [R, H · d]."""
        config = self.config
        heads, kv_heads, d = config.num_heads, config.num_kv_heads, config.head_dim
        group, n, sequences = heads // kv_heads, rows.longest, rows.sequences
        qkv = qkv.view(-1, heads + 2 * kv_heads, d)
        rotated = rotate(qkv[:, : heads + kv_heads], cos, sin)
        both = torch.cat((rotated, qkv[:, heads + kv_heads :]), dim=1)
        padded = both.new_zeros(sequences * n, *both.shape[1:]).index_copy(0, rows.places, both)
        padded = padded.view(sequences, n, -1, d).transpose(1, 2)
        own_keys, own_values = padded[:, heads : heads + kv_heads], padded[:, heads + kv_heads :]
        queries = padded[:, :heads].reshape(sequences, kv_heads, group * n, d)
        keys = torch.cat((knowledge[0], own_keys), dim=2)
        values = torch.cat((knowledge[1], own_values), dim=2)
        scores = (queries @ keys.transpose(2, 3)).view(sequences, heads, n, -1).to(mask.dtype) / math.sqrt(d) + mask
        if bias is not None:
            scores = scores + F.pad(bias, (0, n)).unsqueeze(2) / math.sqrt(d)
        weights = torch.softmax(scores, dim=-1).to(values.dtype)
        out = (weights.view(sequences, kv_heads, group * n, -1) @ values).view(sequences, heads, n, d)
        return out.transpose(1, 2).reshape(sequences * n, heads * d)[rows.places]

    def _keys_and_values(self, qkv: Tensor) -> Tensor:
        config = self.config
        parts = qkv.view(len(qkv), config.num_heads + 2 * config.num_kv_heads, config.head_dim)
        return torch.stack((parts[:, config.num_heads : -config.num_kv_heads], parts[:, -config.num_kv_heads :]))


def _mask(n: int, owner: Tensor) -> Tensor:
    """owner [S, T] -> [S, 1, n, T + n]: 0 where a row may look, -inf elsewhere."""
    sequences, device = len(owner), owner.device
    knowledge = torch.zeros(owner.shape, device=device).masked_fill(owner < 0, -torch.inf)
    causal = torch.full((n, n), -torch.inf, device=device).triu(1)
    return torch.cat((knowledge[:, None].expand(-1, n, -1), causal.expand(sequences, n, n)), dim=-1).unsqueeze(1)


def _spread(phi: Tensor, owner: Tensor) -> Tensor:
    """phi [H, S, 1 + facts], owner [S, T] -> [S, H, T]."""
    index = owner.clamp(min=0).expand(phi.shape[0], *owner.shape)
    return phi.gather(2, index).transpose(0, 1)
