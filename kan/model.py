"""The decoder: Llama family (RMSNorm, RoPE, GQA, SwiGLU), and what every row attends to comes with the batch.

It knows rows. It does not know pages, facts, requests or sampling. Serving and training run the same layers: over fast
kernels and a paged cache (`kan/kernels/`), or over differentiable ones (`lab/training/differentiable.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kan.config import KANConfig
from kan.kernels.operations import Attention, Cache, Kernels
from kan.kernels.torch_kernels import TorchKernels
from kan.layers import Layers, layers_of, rotary_table
from kan.quantization import Bits


@dataclass(slots=True)
class Batch:
    """Rows of one forward pass.

    tokens, positions   [R] int64
    attention           of these rows; of a paged cache it comes from `Cache.attention`
    captured            if a list is given, each layer appends (keys before RoPE, values), both [R, H_kv, d]
    outputs             [O] int64 rows whose hidden states are wanted, or None for all: the last layer is not run to its
                        end for the others
    """

    tokens: Tensor
    positions: Tensor
    attention: Attention
    captured: list[tuple[Tensor, Tensor]] | None = None
    outputs: Tensor | None = None


class Layer:
    """One decoder layer's weights, laid out for use: q, k and v are one product."""

    def __init__(self, weights: Mapping[str, Tensor], index: int, layers: Layers) -> None:
        prefix = f"model.layers.{index}."

        def joined(*names: str) -> tuple[Tensor, Tensor | None]:
            matrices = torch.cat([weights[f"{prefix}{name}.weight"] for name in names])
            biases = [weights[f"{prefix}{name}.bias"] for name in names if f"{prefix}{name}.bias" in weights]
            return matrices, torch.cat(biases) if biases else None

        self.qkv = layers.qkv(*joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
        self.o = layers.output(*joined("self_attn.o_proj"))
        self.gate_up = layers.gate_up(*joined("mlp.gate_proj", "mlp.up_proj"))
        self.down = layers.down(*joined("mlp.down_proj"))
        self.input_norm = layers.norm(weights[f"{prefix}input_layernorm.weight"])
        self.post_norm = layers.norm(weights[f"{prefix}post_attention_layernorm.weight"])


class KANModel:
    """Weights in one dtype on one device. Stateless: everything that changes is in the batch and what it attends to."""

    def __init__(
        self,
        config: KANConfig,
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        kernels: Kernels | None = None,
        packed: bool = True,
        device: torch.device | None = None,
        layers: Layers | None = None,
    ) -> None:
        """`layers`: others than those of the kernels and the group, as training has them."""
        cast = {name: tensor.to(device, dtype) for name, tensor in weights.items()}
        self.config = config
        self.dtype = dtype
        self.kernels = kernels or TorchKernels()
        self.rotary = rotary_table(config, dtype, device)
        layers = layers or layers_of(config, self.kernels, packed=packed)
        embedding = cast["model.embed_tokens.weight"]
        self.device = embedding.device
        self.embedding = layers.embedding(embedding)
        self.layers = [Layer(cast, index, layers) for index in range(config.num_layers)]
        self.norm = layers.norm(cast["model.norm.weight"])
        self.head = layers.head(embedding if config.tie_word_embeddings else cast["lm_head.weight"])

    def new_cache(self, pages: int, small_bits: Bits = 8) -> Cache:
        """`small_bits`: of those of its pages that are small."""
        return self.kernels.new_cache(self.config, pages, self.dtype, small_bits)

    def forward(self, batch: Batch, between: Callable[[], None] | None = None) -> Tensor:
        """Run every layer and return hidden states [O, hidden] for `logits`.

        `between` is called before each layer. It may run another batch, as long as that writes to other pages.
        """
        x = self.embedding(batch.tokens)
        cos, sin = self.rotary.at(batch.positions)
        for index, layer in enumerate(self.layers):
            if between is not None:
                between()
            qkv = layer.qkv(self._norm(x, layer.input_norm)).view(len(x), -1, self.config.head_dim)
            if batch.captured is not None:
                batch.captured.append(self._keys_and_values(qkv))
            attended = batch.attention(index, qkv, cos, sin)
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

    def _keys_and_values(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        return qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
