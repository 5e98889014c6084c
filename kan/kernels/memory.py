"""How much memory a cache takes."""

from __future__ import annotations

import torch

from kan.attention import PAGE_SIZE
from kan.config import KANConfig
from kan.kernels.paged_cache import exact_type
from kan.patterns import SqrtBlocks, pattern_of


def page_bytes(config: KANConfig, dtype: torch.dtype) -> int:
    """Of one page in all layers: keys and values, and the means of blocks if the pattern needs them."""
    pattern = pattern_of(config)
    levels = pattern.levels(config.max_position_embeddings) if isinstance(pattern, SqrtBlocks) else 0
    of_head = 2 * PAGE_SIZE * dtype.itemsize + levels * exact_type(dtype).itemsize
    return config.num_layers * config.num_kv_heads * config.head_dim * of_head
