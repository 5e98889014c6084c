"""Which part of the model a worker has: its layers and heads, and the directory of page content that fits it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group, get_tp_group
from vllm.model_executor.models.utils import extract_layer_index

from kan.rope import RotaryTable
from server.engine.vllm.plugin.model import WideAttention
from server.engine.vllm.plugin.transfer import stage_directory


@dataclass(frozen=True)
class Shard:
    """One rank's layers (first to last) and heads."""

    layers: tuple[WideAttention, ...]
    first_layer: int
    total_layers: int
    total_kv_heads: int
    rotary: RotaryTable
    dtype: torch.dtype

    @classmethod
    def of(cls, vllm_config: VllmConfig) -> Shard:
        """The calling worker's."""
        model = vllm_config.model_config
        named = vllm_config.compilation_config.static_forward_context
        own = {extract_layer_index(name): layer for name, layer in named.items() if isinstance(layer, WideAttention)}
        config = model.hf_text_config
        return cls(
            layers=tuple(own[index] for index in sorted(own)),
            first_layer=min(own),
            total_layers=config.num_hidden_layers,
            total_kv_heads=model.get_total_num_kv_heads(),
            rotary=RotaryTable(
                own[min(own)].head_dim, model.max_model_len, config.rope_parameters["rope_theta"], torch.float32
            ),
            dtype=model.dtype,
        )

    @property
    def device(self) -> torch.device:
        device: torch.device = self.layers[0].kv_cache.device
        return device

    @property
    def heads(self) -> slice:
        """Its query heads."""
        own = self.layers[0].num_heads
        return slice(get_tp_group().rank_in_group * own, (get_tp_group().rank_in_group + 1) * own)

    @property
    def kv_heads(self) -> slice:
        """Its K/V heads; several ranks share one where there are more ranks than heads."""
        group = get_tp_group()
        first = group.rank_in_group * self.total_kv_heads // group.world_size
        return slice(first, first + self.layers[0].num_kv_heads)

    def page_shape(self, tokens: int) -> tuple[int, ...]:
        """Of page content on disk: this stage's layers, all heads."""
        return (len(self.layers), tokens, self.total_kv_heads, self.layers[0].head_dim)

    def gather_heads(self, own: Tensor) -> Tensor:
        """[..., own K/V heads, d] of every rank, as [..., all K/V heads, d]. All ranks must call it."""
        group = get_tp_group()
        if group.world_size == 1:
            return own
        gathered: Tensor = group.all_gather(own.contiguous(), dim=-2)
        return gathered[..., :: gathered.shape[-2] // self.total_kv_heads, :]

    @property
    def writes(self) -> bool:
        """True on the one rank of a stage that writes files."""
        return bool(get_tp_group().rank_in_group == 0)

    def directory(self, root: Path) -> Path:
        """Of this stage's page content: the root itself unless the layers are divided among stages."""
        group = get_pp_group()
        return stage_directory(root, group.rank_in_group, group.world_size)


def slots_of(blocks: list[int], start: int, end: int, block_size: int) -> Tensor:
    """Cache slots [end - start] of tokens [start, end) of a request whose first token is the first of `blocks`."""
    tokens = torch.arange(start, end)
    return torch.tensor(blocks)[tokens // block_size] * block_size + tokens % block_size
