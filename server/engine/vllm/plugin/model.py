"""The Llama family with room for φ in its keys: Eq. 1 as plain attention (tests/kan/test_key_channel.py).

    q' = [q, one-hot, one-hot, 0]    k' = [k, φ high, φ low, 0]    v' = [v, 0]    scale 1/√d

One pair of channels per query head of a group; φ is told in two parts so that bfloat16 loses nothing of it. Channels of
context tokens are 0. The connector writes those of facts; any attention backend of vLLM then computes Eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.platforms import current_platform

CacheUpdate = Callable[[Any, Tensor, Tensor, Tensor, Tensor], None]
Observer = Callable[[object, Tensor, Tensor, Tensor], None]
"""Is shown (layer, K, V, slots) of each step."""
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
GPU_ALIGNMENT = 8


def padded_head_size(head_dim: int, group: int) -> int:
    """Least size that the platform's kernels take, for head_dim and a pair of channels per query head of a group."""
    needed = head_dim + 2 * group
    if current_platform.is_cpu():
        return next(size for size in CPU_HEAD_SIZES if size >= needed)
    return -(-needed // GPU_ALIGNMENT) * GPU_ALIGNMENT


class WideAttention(Attention):  # type: ignore[misc]
    """vLLM's attention over widened heads. `observer`, once set, is shown all K and V on their way into the cache."""

    def __init__(self, num_heads: int, head_dim: int, scale: float, num_kv_heads: int, **options: Any) -> None:
        self.group = num_heads // num_kv_heads
        self.head_dim = head_dim
        super().__init__(num_heads, padded_head_size(head_dim, self.group), scale, num_kv_heads=num_kv_heads, **options)
        own = torch.eye(self.group).repeat(num_kv_heads, 1)
        pick = F.pad(torch.cat((own, own), dim=-1), (0, self.head_size - head_dim - 2 * self.group))
        self.register_buffer("pick", pick, persistent=False)
        self.observer: Observer | None = None
        self.write_cache: CacheUpdate = self.impl.do_kv_cache_update
        """The backend's own writer of K and V; what goes through `impl` is shown to the observer as well."""
        self.impl.do_kv_cache_update = self._show_and_write

    def _show_and_write(self, layer: Any, keys: Tensor, values: Tensor, cache: Tensor, slots: Tensor) -> None:
        if self.observer is not None:
            self.observer(self, keys, values, slots)
        self.write_cache(layer, keys, values, cache, slots)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        rows, extra = q.shape[0], self.head_size - self.head_dim
        pick = self.pick.to(q.dtype).expand(rows, -1, -1)
        wide_q = torch.cat((q.view(rows, self.num_heads, self.head_dim), pick), dim=-1)
        wide_k = F.pad(k.view(rows, self.num_kv_heads, self.head_dim), (0, extra))
        wide_v = F.pad(v.view(rows, self.num_kv_heads, self.head_dim), (0, extra))
        out: Tensor = super().forward(wide_q, wide_k, wide_v)
        return out.view(rows, self.num_heads, self.head_size)[..., : self.head_dim].reshape(rows, -1)


class KalmaGroveAttention(LlamaAttention):  # type: ignore[misc]
    """Llama's, around `WideAttention`."""

    def __init__(
        self, *args: Any, cache_config: Any = None, quant_config: Any = None, prefix: str = "", **options: Any
    ) -> None:
        super().__init__(*args, cache_config=cache_config, quant_config=quant_config, prefix=prefix, **options)
        config = get_current_vllm_config()
        # The plain attention that LlamaAttention made is replaced, and its name with it.
        config.compilation_config.static_forward_context.pop(f"{prefix}.attn")
        self.attn = WideAttention(
            self.num_heads,
            self.head_dim,
            self.scaling,
            self.num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )
        # Backends that size their scratch memory by the model's head size must see the widened one.
        config.model_config.model_arch_config.head_size = self.attn.head_size


class KalmaGroveDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """Llama's, with `KalmaGroveAttention`."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", config: Any = None, **_: Any) -> None:
        super().__init__(vllm_config, prefix, config, attn_layer_type=KalmaGroveAttention)


class KalmaGroveForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """What `server.engine.vllm.plugin.register` registers."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=KalmaGroveDecoderLayer)
