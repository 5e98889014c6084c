"""Lay out preamble, facts and context over pages by hand: what an engine does, in its plainest form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kan.attention import Prefix, SequenceRows, pages_for
from kan.kernels.operations import Cache
from kan.knowledge.adapter import Adapter
from kan.knowledge.pages import PageContent
from kan.model import Batch, KANModel
from kan.rope import rotate


@dataclass
class Part:
    """Tokens in pages of their own."""

    pages: list[int]
    tokens: int


@dataclass
class Layout:
    """A model with a cache whose pages are handed out in order and never given back."""

    model: KANModel
    cache: Cache = field(init=False)
    used: int = 0

    def __post_init__(self) -> None:
        self.cache = self.model.new_cache(256)

    def run(
        self,
        tokens: Sequence[int],
        first_position: int = 0,
        parts: Sequence[Part] = (),
        phi: Tensor | None = None,
        captured: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Part, Tensor, Tensor]:
        """Compute `tokens` behind `parts`. phi [layers, H, parts] -> (their own part, logits, attention mass [parts]).

        captured    see `Batch`
        """
        n = len(tokens)
        own = Part(list(range(self.used, self.used + pages_for(n))), n)
        self.used += len(own.pages)
        pages = tuple(page for part in parts for page in part.pages)
        prefix = Prefix(pages, tuple(part.tokens for part in parts), phi)
        attention = self.cache.attention([SequenceRows(prefix, own.pages, 0, n)])
        positions = torch.arange(first_position, first_position + n)
        hidden = self.model.forward(Batch(torch.tensor(tokens), positions, attention, captured))
        return own, self.model.logits(hidden), attention.masses[0]

    def encoded(self, tokens: Sequence[int], first_position: int, preamble: Part, adapter: Adapter) -> Part:
        """A fact's part, its keys and values replaced by the adapter's."""
        captured: list[tuple[Tensor, Tensor]] = []
        part, _, _ = self.run(tokens, first_position, [preamble], captured=captured)
        plain = PageContent(torch.stack([k for k, _ in captured]), torch.stack([v for _, v in captured]))
        updated = adapter(plain)
        cos, sin = self.model.rotary.at(torch.arange(first_position, first_position + len(tokens)))
        self.cache.write(part.pages, rotate(updated.keys, cos, sin), updated.values)
        return part
