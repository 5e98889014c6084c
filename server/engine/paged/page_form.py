"""In which form facts' pages lie in the cache and on disk: in the model's own numbers, or in 8 or 4 bits."""

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
from kan.model import KANModel
from kan.quantization import Bits
from server.engine.paged.options import PageBits


@dataclass(frozen=True, slots=True)
class PageForm:
    """`dtype` is the model's; contexts and the preamble always lie in it. `small_bits`: None for whole numbers."""

    dtype: torch.dtype
    small_bits: Bits | None

    @classmethod
    def of(cls, dtype: torch.dtype, page_bits: PageBits) -> PageForm:
        """As the engine's option says it."""
        return cls(dtype, None if page_bits == 16 else page_bits)

    @property
    def small(self) -> bool:
        return self.small_bits is not None

    @property
    def per_page(self) -> int:
        """Tokens of a fact in one page."""
        return PAGE_SIZE if self.small_bits is None else tokens_per_small_page(self.dtype, self.small_bits)

    def new_cache(self, model: KANModel, pages: int) -> Cache:
        """Of so many pages, whose small ones are of this form."""
        return model.new_cache(pages) if self.small_bits is None else model.new_cache(pages, self.small_bits)

    def pages(self, tokens: int) -> int:
        """That a fact of so many tokens takes."""
        return pages_for(tokens, self.per_page)

    def stored(self, content: PageContent) -> Stored:
        """As it goes to disk."""
        return content if self.small_bits is None else SmallContent.of(content, self.small_bits)

    def read(self, path: Path, shape: tuple[int, ...]) -> Stored:
        """Of keys of this shape. Raises OSError or PageContentError."""
        if self.small_bits is None:
            return read_pages(path, shape, self.dtype)
        return read_small_pages(path, shape, self.small_bits)

    def write(self, cache: Cache, pages: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Keys (after RoPE) and values, both [layers, tokens, H_kv, d], into `pages` of the cache."""
        (cache.write_small if self.small else cache.write)(pages, keys, values)
