"""The decoder: Llama family (RMSNorm, RoPE, GQA, SwiGLU), and what every row attends to comes with the batch.

It knows rows. It does not know pages, facts, requests or sampling. Serving and training run the same layers: over fast
kernels and a paged cache (`kan/kernels/`), or over differentiable ones (`lab/training/differentiable.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.config import KANConfig
from kan.kernels.operations import Attention, Cache, Kernels, Product
from kan.kernels.torch_kernels import TorchKernels
from kan.rope import RotaryTable


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
    """One decoder layer's weights, laid out for use: q, k and v are one product. `product` makes one of (W, b)."""

    def __init__(
        self, weights: Mapping[str, Tensor], index: int, product: Callable[[Tensor, Tensor | None], Product]
    ) -> None:
        prefix = f"model.layers.{index}."

        def linear(*names: str) -> Product:
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
    ) -> None:
        cast = {name: tensor.to(device, dtype) for name, tensor in weights.items()}
        self.config = config
        self.dtype = dtype
        self.kernels = kernels or TorchKernels()
        self.rotary = RotaryTable(config.head_dim, config.max_position_embeddings, config.rope_theta, dtype, device)
        self.embedding = cast["model.embed_tokens.weight"]
        product = partial(self.kernels.linear, packed=packed)
        self.layers = [Layer(cast, index, product) for index in range(config.num_layers)]
        self.norm = cast["model.norm.weight"]
        head = self.embedding if config.tie_word_embeddings else cast["lm_head.weight"]
        self.head = self.kernels.linear(head, packed=packed)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def new_cache(self, pages: int) -> Cache:
        return self.kernels.new_cache(self.config, pages, self.dtype)

    def forward(self, batch: Batch, between: Callable[[], None] | None = None) -> Tensor:
        """Run every layer and return hidden states [O, hidden] for `logits`.

        `between` is called before each layer. It may run another batch, as long as that writes to other pages.
        """
        x = F.embedding(batch.tokens, self.embedding)
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
