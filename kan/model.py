"""The decoder: Llama family (RMSNorm, RoPE, GQA, SwiGLU) whose attention is Eq. 1 over a paged cache.

It knows rows, pages and groups. It does not know requests, facts, scheduling or sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kan.attention import PAGE_SIZE, AttentionGroup
from kan.config import KANConfig
from kan.kernels.operations import Kernels, TorchKernels, store
from kan.linear import Product
from kan.rope import RotaryTable

L = TypeVar("L")
"""A linear layer."""


@dataclass(slots=True)
class Batch:
    """Rows of one forward pass; the rows of a group are contiguous and the groups cover all rows.

    tokens, positions   [R] int64
    slots               [R] int64 where each row's K/V goes: page · PAGE_SIZE + offset
    captured            if a list is given, each layer appends (keys before RoPE, values), both [R, H_kv, d]
    outputs             [O] int64 rows whose hidden states are wanted, or None for all: the last layer is not run to its
                        end for the others
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    groups: list[AttentionGroup]
    captured: list[tuple[Tensor, Tensor]] | None = None
    outputs: Tensor | None = None


class PagedCache:
    """K and V of every page: per layer [2, H_kv, pages, PAGE_SIZE, d].

    Memory is taken when a page is first written. It comes from NumPy, which asks the system for huge pages: gathering
    scattered pages then misses the TLB much less often.
    """

    def __init__(self, config: KANConfig, pages: int, dtype: torch.dtype) -> None:
        shape = (2, config.num_kv_heads, pages, PAGE_SIZE, config.head_dim)
        # Zeroed: a masked column has weight 0, and 0 · NaN from stale memory would still be NaN.
        bytes_per_layer = math.prod(shape) * dtype.itemsize
        self.layers = [
            torch.from_numpy(np.zeros(bytes_per_layer, np.uint8)).view(dtype).view(shape)
            for _ in range(config.num_layers)
        ]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store rotated keys and values, both [R, H_kv, d], at slots [R]."""
        store(self.layers[layer], slots, keys, values)


class Layer(Generic[L]):
    """One decoder layer's weights, laid out for use: q, k and v are one product. `product` makes one of (W, b)."""

    def __init__(
        self, weights: Mapping[str, Tensor], index: int, product: Callable[[Tensor, Tensor | None], L]
    ) -> None:
        prefix = f"model.layers.{index}."

        def linear(*names: str) -> L:
            matrices = torch.cat([weights[f"{prefix}{name}.weight"] for name in names])
            biases = [weights[f"{prefix}{name}.bias"] for name in names if f"{prefix}{name}.bias" in weights]
            return product(matrices, torch.cat(biases) if biases else None)

        self.qkv = linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.o = linear("self_attn.o_proj")
        self.gate_up = linear("mlp.gate_proj", "mlp.up_proj")
        self.down = linear("mlp.down_proj")
        self.input_norm = weights[f"{prefix}input_layernorm.weight"]
        self.post_norm = weights[f"{prefix}post_attention_layernorm.weight"]


class KANModel:
    """Weights in one dtype on one device. Stateless: everything that changes is in the batch and the cache."""

    def __init__(
        self,
        config: KANConfig,
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        kernels: Kernels | None = None,
        packed: bool = True,
    ) -> None:
        cast = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.config = config
        self.dtype = dtype
        self.kernels = kernels or TorchKernels()
        self.rotary = RotaryTable(config.head_dim, config.max_position_embeddings, config.rope_theta, dtype)
        self.embedding = cast["model.embed_tokens.weight"]
        product = partial(self.kernels.linear, packed=packed)
        self.layers = [Layer(cast, index, product) for index in range(config.num_layers)]
        self.norm = cast["model.norm.weight"]
        head = self.embedding if config.tie_word_embeddings else cast["lm_head.weight"]
        self.head = self.kernels.linear(head, packed=packed)

    def new_cache(self, pages: int) -> PagedCache:
        return PagedCache(self.config, pages, self.dtype)

    def forward(self, batch: Batch, cache: PagedCache, between: Callable[[], None] | None = None) -> Tensor:
        """Run every layer, write the rows' K/V into the cache, return hidden states [O, hidden] for `logits`.

        `between` is called before each layer. It may run another batch, as long as that writes to other pages.
        """
        x = F.embedding(batch.tokens, self.embedding)
        cos, sin = self.rotary.at(batch.positions)
        for index, layer in enumerate(self.layers):
            if between is not None:
                between()
            attended = self._attend(self._norm(x, layer.input_norm), layer, index, batch, cache, cos, sin)
            if batch.outputs is not None and index == len(self.layers) - 1:
                attended, x = attended[batch.outputs], x[batch.outputs]
                if not len(x):
                    break
            x = layer.o.plus(attended, x)
            x = layer.down.plus(self.kernels.swiglu(layer.gate_up(self._norm(x, layer.post_norm))), x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [R, hidden] -> [R, vocabulary], float32 (float64 for a float64 model)."""
        out = self.head(self._norm(hidden, self.norm))
        return out if self.dtype == torch.float64 else out.float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, weight, self.config.rms_norm_eps)

    def _attend(
        self, x: Tensor, layer: Layer[Product], index: int, batch: Batch, cache: PagedCache, cos: Tensor, sin: Tensor
    ) -> Tensor:
        heads, kv_heads, d = self.config.num_heads, self.config.num_kv_heads, self.config.head_dim
        qkv = layer.qkv(x).view(len(x), heads + 2 * kv_heads, d)
        if batch.captured is not None:
            batch.captured.append((qkv[:, heads:-kv_heads], qkv[:, -kv_heads:]))
        queries = self.kernels.rotate_and_store(qkv, cos, sin, batch.slots, cache.layers[index])
        outputs = []
        for group in batch.groups:
            sequences, n, _ = group.mask.shape
            q = queries[group.rows].reshape(sequences, n, heads, d)
            phi = None if group.phi is None else group.phi[index]
            out = self.kernels.attention(q, cache.layers[index], group.pages, group.mask, phi, group.mass)
            outputs.append(out.reshape(sequences * n, heads * d))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
