"""Who owns which page of the KV cache. Knows page numbers and counts, not what the pages hold.

Invariants (`audit`): every page is free, context or knowledge; a page is free exactly when nobody refers to it; a
published knowledge page is never handed out for writing until its last reference is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

PageKind = Literal["context", "knowledge"]


class OutOfPages(Exception):
    """Fewer pages are free than were asked for. Nothing was allocated."""


class PagePool:
    """Reference-counted pages 0 … total-1. One owner thread; no locks."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"a page pool needs at least one page, not {total}")
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._references = [0] * total
        self._kind: list[PageKind | None] = [None] * total
        self._published = [False] * total
        self._used: dict[PageKind, int] = {"context": 0, "knowledge": 0}

    @property
    def free(self) -> int:
        return len(self._free)

    def used(self, kind: PageKind) -> int:
        return self._used[kind]

    def allocate(self, count: int, kind: PageKind) -> list[int]:
        """Take `count` pages with one reference each."""
        if count > len(self._free):
            raise OutOfPages(f"{count} pages wanted, {len(self._free)} free")
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
            self._kind[page] = kind
        self._used[kind] += count
        return pages

    def publish(self, pages: Sequence[int]) -> None:
        """From now on these pages are shared and must not be written."""
        for page in pages:
            if self._kind[page] != "knowledge":
                raise ValueError(f"page {page} is not a knowledge page")
            self._published[page] = True

    def is_writable(self, page: int) -> bool:
        return self._references[page] == 1 and not self._published[page]

    def references(self, page: int) -> int:
        return self._references[page]

    def retain(self, pages: Sequence[int]) -> None:
        for page in pages:
            if self._references[page] == 0:
                raise ValueError(f"page {page} is free and cannot be retained")
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Give back one reference of each page; the last one frees it."""
        for page in pages:
            kind = self._kind[page]
            if self._references[page] == 0 or kind is None:
                raise ValueError(f"page {page} was released twice")
            self._references[page] -= 1
            if self._references[page] == 0:
                self._kind[page] = None
                self._published[page] = False
                self._used[kind] -= 1
                self._free.append(page)

    def audit(self) -> None:
        """AssertionError if the books do not balance."""
        assert self.free + self.used("context") + self.used("knowledge") == self.total, "page totals do not add up"
        assert len(set(self._free)) == self.free, "a page is free twice"
        for page in range(self.total):
            free = self._references[page] == 0
            assert free == (self._kind[page] is None), f"page {page}: references and kind disagree"
            assert not (free and self._published[page]), f"page {page} is free and published"
        assert self.free == self._references.count(0), "free list and reference counts disagree"
