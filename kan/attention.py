"""Eq. 1 over pages: softmax((Q Kᵀ + φ) / √d) V, and its inputs.

Every kernel has the signature of `Kernel`. A group is a set of sequences with the same number of new rows; the columns
of a sequence are the tokens of its pages in page-table order: preamble, facts, context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
