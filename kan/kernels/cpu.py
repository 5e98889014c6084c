"""Eq. 1 on a CPU: gather the pages once per layer, then two batched matrix products around one softmax.

The batch of the products is (kv head, sequence): in that order the gathered pages already lie contiguous, and the query
heads of a group are rows of the same product, so that keys and values are read once per group.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def paged_attention(q: Tensor, kv: Tensor, pages: Tensor, mask: Tensor, phi: Tensor | None, mass: Tensor) -> Tensor:
    """See `kan.attention.Kernel`. Scores, bias and softmax are float32 (float64 for a float64 cache)."""
    sequences, n, heads, d = q.shape
    kv_heads, page_size = kv.shape[1], kv.shape[3]
    group, columns = heads // kv_heads, pages.shape[1] * page_size

    keys, values = _gather(kv, pages.reshape(-1)).view(2, kv_heads * sequences, columns, d)
    queries = q.view(sequences, n, kv_heads, group, d).permute(2, 0, 3, 1, 4).reshape(-1, group * n, d)

    products = torch.bmm(queries, keys.transpose(1, 2)).view(kv_heads, sequences, group, n, columns)
    scores = torch.add(mask[:, None], products, alpha=1 / math.sqrt(d))
    if phi is not None:
        bias = phi.view(kv_heads, group, sequences, -1).transpose(1, 2).unsqueeze(3)
        scores[..., : bias.shape[-1]] += bias / math.sqrt(d)
    weights = torch.softmax(scores, dim=-1)
    if mass.shape[1]:
        mass += weights[..., -1, : mass.shape[1]].sum(2).sum(0)  # at once, the same sum is five times slower

    out = torch.bmm(weights.view(-1, group * n, columns).to(values.dtype), values)
    return out.view(kv_heads, sequences, group, n, d).permute(1, 3, 0, 2, 4).reshape(sequences, n, heads, d)


def _gather(kv: Tensor, pages: Tensor) -> Tensor:
    """kv [2, H_kv, pages, PAGE_SIZE, d], pages [N] -> [2 · H_kv · N, PAGE_SIZE · d].

    As rows of one table, because an embedding look-up uses every core and index_select along an inner axis does not.
    """
    planes = kv.shape[0] * kv.shape[1]
    rows = torch.arange(planes)[:, None] * kv.shape[2] + pages
    return F.embedding(rows.view(-1), kv.view(planes * kv.shape[2], -1))
