"""The means of the keys of a context's blocks, in every size that a pattern of blocks has; kept beside the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan.attention import PAGE_SIZE, SequenceRows
from kan.config import KANConfig
from kan.kernels.paged_cache import exact_type, gather_pages
from kan.patterns import SqrtBlocks


@dataclass(frozen=True, slots=True)
class Completed:
    """Blocks of one level whose last token is among the rows of a step.

    last    [N] int64 the block's last page
    parts   [N, 2^…] int64 its pages; on higher levels the last pages of its two halves
    """

    last: Tensor
    parts: Tensor


class BlockMeans:
    """Per layer [levels, H_kv, pages, d], float32 (float64 for a float64 cache): a block's mean lies at its last page.

    So whoever shares a context's first pages shares the means of the blocks that end there, and a page that is written
    anew, as after preemption, has its means written anew. Means of partial blocks do not exist; nobody asks for them.
    """

    def __init__(self, config: KANConfig, pattern: SqrtBlocks, pages: int, dtype: torch.dtype) -> None:
        self._pattern = pattern
        self._levels = pattern.levels(config.max_position_embeddings)
        shape = (self._levels, config.num_kv_heads, pages, config.head_dim)
        self._layers = [torch.zeros(shape, dtype=exact_type(dtype)) for _ in range(config.num_layers)]

    def of(self, layer: int, level: int, last: Tensor) -> Tensor:
        """Means [H_kv, *last.shape, d] of the blocks with these last pages."""
        return self._layers[layer][level][:, last]

    def all_of(self, layer: int) -> Tensor:
        """[levels, H_kv, pages, d]"""
        return self._layers[layer]

    def completed(self, sequences: Sequence[SequenceRows]) -> list[Completed]:
        """By level, what the rows of a step complete; the same for all layers."""
        found = []
        for level in range(self._levels):
            each = [self._of_sequence(one, level) for one in sequences]
            last, parts = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*each, strict=True))
            if not len(last):
                break
            found.append(Completed(last, parts))
        return found

    def refresh(self, layer: int, kv: Tensor, completed: Sequence[Completed]) -> None:
        """Of one layer, whose keys kv[0] [H_kv, pages, PAGE_SIZE, d] hold the rows of the step by now."""
        for level, blocks in enumerate(completed):
            means = self._layers[layer][level]
            if level == 0:
                keys = gather_pages(kv[:1], blocks.parts.view(-1)).view(len(means), len(blocks.last), -1, kv.shape[-1])
                halves = keys.to(means.dtype)
            else:
                halves = self._layers[layer][level - 1][:, blocks.parts]
            means.index_copy_(1, blocks.last, halves.mean(2))

    def _of_sequence(self, one: SequenceRows, level: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        size = self._pattern.block(level)
        step = size // PAGE_SIZE
        ends = np.arange(one.computed // size + 1, (one.computed + one.count) // size + 1) * step - 1
        offsets = np.array([-(step // 2), 0]) if level else np.arange(1 - step, 1)
        pages = np.asarray(one.pages, np.int64)
        return pages[ends], pages[ends[:, None] + offsets]
