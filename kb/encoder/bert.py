"""A BERT encoder run with as few operations as it has products: every other one is folded into a product or fused.

transformers' own modules spend as long around the products as in them when there is one short text to embed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cpu.linear import Linear, can_pack


class Bert:
    """Hidden states of a model that `fits`. Stateless, so thread-safe."""

    def __init__(self, config: Any, weights: Mapping[str, Tensor]) -> None:
        """`config` and `weights` of a transformers BertModel; the weights' dtype is what it computes in."""
        self._heads = int(config.num_attention_heads)
        self._eps = float(config.layer_norm_eps)
        self._words = weights["embeddings.word_embeddings.weight"]
        # Every token of a single sentence has type 0.
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _norm(weights, "embeddings.LayerNorm")
        self._layers = [_Layer(weights, f"encoder.layer.{n}.") for n in range(int(config.num_hidden_layers))]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this transformers model is one that is computed here."""
        config = model.config
        plain = getattr(config, "position_embedding_type", "absolute") == "absolute" and not config.is_decoder
        weights = model.encoder.layer[0].output.dense.weight if type(model).__name__ == "BertModel" else None
        return weights is not None and plain and config.hidden_act == "gelu" and can_pack(weights)

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens, mask [B, n] int64 (mask: 1 on tokens, 0 on padding) -> hidden states [B, n, width]."""
        x = F.embedding(tokens, self._words) + self._places[: tokens.shape[1]]
        x = self._normed(x, self._norm)
        seen = None if bool(mask.all()) else mask.bool()[:, None, None, :]
        for layer in self._layers:
            x = self._normed(layer.attended.plus(self._attend(layer.qkv(x), seen), x), layer.attended_norm)
            x = self._normed(layer.down.plus(layer.up.gelu(x), x), layer.norm)
        return x

    def _normed(self, x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *norm, self._eps)

    def _attend(self, qkv: Tensor, seen: Tensor | None) -> Tensor:
        batch, n, width = qkv.shape
        q, k, v = qkv.view(batch, n, 3, self._heads, width // 3 // self._heads).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).reshape(batch, n, width // 3)


class _Layer:
    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        def linear(*names: str) -> Linear:
            weight, bias = (torch.cat([weights[f"{prefix}{name}.{part}"] for name in names]) for part in _PARTS)
            return Linear(weight, bias)

        self.qkv = linear("attention.self.query", "attention.self.key", "attention.self.value")
        self.attended = linear("attention.output.dense")
        self.attended_norm = _norm(weights, f"{prefix}attention.output.LayerNorm")
        self.up = linear("intermediate.dense")
        self.down = linear("output.dense")
        self.norm = _norm(weights, f"{prefix}output.LayerNorm")


_PARTS = ("weight", "bias")


def _norm(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]
