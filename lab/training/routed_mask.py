"""What √n attention sees, as a mask for dense scores: the same rule as served, for training."""

from __future__ import annotations

import torch
from torch import Tensor

from kan.patterns import SqrtBlocks


@torch.no_grad()
def routed_mask(pattern: SqrtBlocks, queries: Tensor, keys: Tensor) -> Tensor:
    """Of contexts that begin with row 0: queries [S, H_kv, sharing, n, d] and keys [S, H_kv, n, d], both after RoPE
    -> [S, H_kv, n, n] bool, True where a row sees a key.

    No gradient flows through a choice: it is where the loss has its steps.
    """
    n = keys.shape[2]
    places = torch.arange(n, device=keys.device)
    seen = (places <= places[:, None]).expand(*keys.shape[:2], n, n).clone()
    wanted = queries.sum(2)
    for first, end, way in pattern.spans(0, n):
        if way is not None:
            size = pattern.block(way.level)
            blocks = _blocks_seen(way.chosen, wanted[:, :, first:end], keys, size, places[first:end] // size)
            seen[:, :, first:end] &= blocks.repeat_interleave(size, dim=-1)[..., :n]
    return seen


def _blocks_seen(chosen: int, wanted: Tensor, keys: Tensor, size: int, own: Tensor) -> Tensor:
    """wanted [S, H_kv, m, d] of rows in the blocks own [m] -> [S, H_kv, m, blocks] bool."""
    complete = keys.shape[2] // size
    means = keys[:, :, : complete * size].reshape(*keys.shape[:2], complete, size, -1).mean(3)
    number = torch.arange(-(-keys.shape[2] // size), device=keys.device)
    between = (number > 0) & (number < own[:, None] - 1)
    scores = (wanted @ means.transpose(2, 3)).masked_fill(~between[:, :complete], -torch.inf)
    found = ~between & (number <= own[:, None])
    return found.expand(*scores.shape[:2], -1, -1).scatter(3, scores.topk(chosen, dim=3).indices, True)
