"""How much memory a cache takes."""

from __future__ import annotations

import torch

from kan.attention import PAGE_SIZE
from kan.config import KANConfig
from kan.kernels.paged_cache import exact_type
from kan.kernels.small_pages import scale_bytes
from kan.patterns import SqrtBlocks, pattern_of
from kan.quantization import Bits


def page_bytes(config: KANConfig, dtype: torch.dtype, small_bits: Bits | None = None) -> int:
    """Of one page in all layers: keys and values, the means of blocks if the pattern needs them, and the steps of small
    pages if there may be any."""
    pattern = pattern_of(config)
    levels = pattern.levels(config.max_position_embeddings) if isinstance(pattern, SqrtBlocks) else 0
    of_channel = 2 * PAGE_SIZE * dtype.itemsize + levels * exact_type(dtype).itemsize
    of_head = config.head_dim * of_channel + (scale_bytes(config.head_dim, dtype, small_bits) if small_bits else 0)
    return config.num_layers * config.num_kv_heads * of_head
