"""Lay out preamble, facts and context over pages by hand: what an engine does, in its plainest form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE, AttentionGroup
from kan.knowledge.adapter import Adapter
from kan.knowledge.pages import PageContent
from kan.model import Batch, KANModel, PagedCache
from kan.rope import rotate


@dataclass
class Part:
    """Tokens in pages of their own."""

    pages: list[int]
    tokens: int

    def columns(self) -> Tensor:
        """True on tokens, False on the padding of the last page."""
        return torch.arange(len(self.pages) * PAGE_SIZE) < self.tokens


@dataclass
class Layout:
    """A model with a cache whose pages are handed out in order and never given back."""

    model: KANModel
    cache: PagedCache = field(init=False)
    used: int = 0

    def __post_init__(self) -> None:
        self.cache = self.model.new_cache(256)

    def run(
        self,
        tokens: Sequence[int],
        first_position: int = 0,
        prefix: Sequence[Part] = (),
        phi: Tensor | None = None,
        captured: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Part, Tensor, Tensor]:
        """Compute `tokens` behind `prefix`. phi [layers, H, len(prefix)] -> (its part, logits, attention mass).

        captured    see `Batch`
        """
        n = len(tokens)
        count = -(-n // PAGE_SIZE)
        own = Part(list(range(self.used, self.used + count)), n)
        self.used += count
        visible = torch.cat([part.columns() for part in prefix] + [torch.zeros(0, dtype=torch.bool)])
        causal = torch.arange(count * PAGE_SIZE)[None, :] <= torch.arange(n)[:, None]
        allowed = torch.cat((visible.expand(n, -1), causal), dim=1)
        mask = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
        spread = None
        if phi is not None:
            owner = [index for index, part in enumerate(prefix) for _ in range(len(part.pages) * PAGE_SIZE)]
            spread = phi[:, :, owner].unsqueeze(2)
        mass = torch.zeros(1, len(visible), dtype=torch.float64)
        group = AttentionGroup(
            start=0,
            pages=torch.tensor([[page for part in (*prefix, own) for page in part.pages]]),
            mask=mask[None],
            phi=spread,
            mass=mass,
        )
        batch = Batch(
            tokens=torch.tensor(tokens),
            positions=torch.arange(first_position, first_position + n),
            slots=own.pages[0] * PAGE_SIZE + torch.arange(n),
            groups=[group],
            captured=captured,
        )
        return own, self.model.logits(self.model.forward(batch, self.cache)), mass[0]

    def encoded(self, tokens: Sequence[int], first_position: int, preamble: Part, adapter: Adapter) -> Part:
        """A fact's part, its keys and values replaced by the adapter's."""
        captured: list[tuple[Tensor, Tensor]] = []
        part, _, _ = self.run(tokens, first_position, [preamble], captured=captured)
        plain = PageContent(torch.stack([k for k, _ in captured]), torch.stack([v for _, v in captured]))
        updated = adapter(plain)
        slots = part.pages[0] * PAGE_SIZE + torch.arange(len(tokens))
        cos, sin = self.model.rotary.at(torch.arange(first_position, first_position + len(tokens)))
        for layer, (keys, values) in enumerate(zip(updated.keys, updated.values, strict=True)):
            self.cache.write(layer, slots, rotate(keys, cos, sin), values)
        return part
