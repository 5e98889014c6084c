"""Which blocks a row may choose from, and which it chooses."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kan.attention import PAGE_SIZE, SequenceRows
from kan.patterns import SqrtBlocks


class Blocks:
    """A context's blocks of one level, for rows that are all in one block or begin in different ones."""

    def __init__(self, rows: SequenceRows, pattern: SqrtBlocks, level: int) -> None:
        self._pages = rows.pages
        self._filled = len(rows.context)
        self.step = pattern.block(level) // PAGE_SIZE
        """Pages of a block."""
        self._last = (self._filled - 1) // self.step
        """The block that the last row is in."""

    def always_seen(self) -> NDArray[np.int64]:
        """What rows of the last block see anyway: the first block, theirs and the one before. Places, in pages."""
        near = np.arange((self._last - 1) * self.step, self._filled)
        return np.concatenate((np.arange(self.step), near))

    def between(self) -> Tensor:
        """[blocks, step] int64: the pages of those that the last row may choose from. What earlier rows may choose
        from is the beginning of that."""
        return torch.tensor(self._pages[self.step : (self._last - 1) * self.step]).view(-1, self.step)


def summed_queries(q: Tensor, means: Tensor) -> Tensor:
    """q [n, H, d], means [H_kv, ..., d] -> [H_kv, n, d] in the type of the means: what a group's heads look for."""
    return q.view(len(q), len(means), -1, q.shape[-1]).sum(2, dtype=means.dtype).transpose(0, 1)


def choose(queries: Tensor, means: Tensor, mask: Tensor, count: int) -> Tensor:
    """queries [X, n, d], means [X, blocks, d], mask [n, blocks] 0 or -inf -> [X, n, count] int64: numbers of blocks."""
    scores = torch.bmm(queries, means.transpose(1, 2)).add_(mask)
    return scores.topk(count, dim=-1, sorted=False).indices
