"""Eq. 1 over pages: softmax((Q Kᵀ + φ) / √d) V, its inputs, and the equivalent form without a bias.

Every kernel has the signature of `Kernel`. A group is a set of sequences with the same number of new rows; the columns
of a sequence are the tokens of its pages in page-table order: preamble, facts, context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PAGE_SIZE = 16
"""Tokens per page."""


@dataclass(slots=True)
class AttentionGroup:
    """S sequences with n query rows each, over P pages each (shorter ones are padded and masked).

    start   first row of the group in the batch; it spans S·n rows
    pages   [S, P] int64 page numbers
    mask    [S, n, P·PAGE_SIZE] 0 where a row may look, -inf elsewhere
    phi     [layers, H, S, K] φ on the first K columns (the knowledge part), or None for no bias
    mass    [S, K] attention on those columns by each sequence's last row, summed over layers and heads: an output
    """

    start: int
    pages: Tensor
    mask: Tensor
    phi: Tensor | None
    mass: Tensor

    @property
    def rows(self) -> slice:
        sequences, n, _ = self.mask.shape
        return slice(self.start, self.start + sequences * n)


class Kernel(Protocol):
    def __call__(self, q: Tensor, kv: Tensor, pages: Tensor, mask: Tensor, phi: Tensor | None, mass: Tensor) -> Tensor:
        """Attention of one layer.

        q [S, n, H, d]; kv [2, H_kv, pages, PAGE_SIZE, d], the layer's whole cache; pages [S, P]; mask [S, n, P·16];
        phi [H, S, K] or None; mass [S, K], added to in place. Returns [S, n, H, d] in q's dtype.
        """
        ...


def with_key_channel(q: Tensor, k: Tensor, v: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 1 as plain attention: q' = [q, one-hot], k' = [k, φ], v' = [v, 0], scale still 1/√d.

    q [H, n, d], k and v [H_kv, T, d], phi [H, T] -> the same with d + group channels, where group = H / H_kv.
    The one-hot of a query head picks its own φ out of the group's channels. Cut the output back to d.
    """
    group = q.shape[0] // k.shape[0]
    pick = torch.eye(group, dtype=q.dtype).repeat(k.shape[0], 1)
    channels = phi.reshape(k.shape[0], group, -1).transpose(1, 2).to(k.dtype)
    return (
        torch.cat((q, pick[:, None].expand(-1, q.shape[1], -1)), dim=-1),
        torch.cat((k, channels), dim=-1),
        torch.cat((v, v.new_zeros(*v.shape[:2], group)), dim=-1),
    )
