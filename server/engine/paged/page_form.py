"""In which form facts' pages lie in the cache and on disk: in the model's own numbers, or in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE, pages_for
from kan.kernels.operations import Cache
from kan.kernels.small_pages import tokens_per_small_page
from kan.knowledge.pages import PageContent, SmallContent, Stored, read_pages, read_small_pages


@dataclass(frozen=True, slots=True)
class PageForm:
    """`dtype` is the model's; contexts and the preamble always lie in it."""

    dtype: torch.dtype
    small: bool

    @property
    def per_page(self) -> int:
        """Tokens of a fact in one page."""
        return tokens_per_small_page(self.dtype) if self.small else PAGE_SIZE

    def pages(self, tokens: int) -> int:
        """That a fact of so many tokens takes."""
        return pages_for(tokens, self.per_page)

    def stored(self, content: PageContent) -> Stored:
        """As it goes to disk."""
        return SmallContent.of(content) if self.small else content

    def read(self, path: Path, shape: tuple[int, ...]) -> Stored:
        """Of keys of this shape. Raises OSError or PageContentError."""
        return read_small_pages(path, shape) if self.small else read_pages(path, shape, self.dtype)

    def write(self, cache: Cache, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Keys (after RoPE) and values, both [layers, tokens, H_kv, d], into `pages` of the cache."""
        (cache.write_small if self.small else cache.write)(pages, keys, values)
