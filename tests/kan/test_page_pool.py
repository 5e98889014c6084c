"""The books of the page pool, under any sequence of operations."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kan.page_pool import OutOfPages, PagePool


class PoolMachine(RuleBasedStateMachine):
    """Holders each own one reference to some pages; the pool must agree with them at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(9)
        self.holders: list[list[int]] = []
        self.published: set[int] = set()

    @rule(count=st.integers(0, 5), kind=st.sampled_from(["context", "knowledge"]))
    def allocate(self, count: int, kind: str) -> None:
        free = self.pool.free
        if count > free:
            with pytest.raises(OutOfPages):
                self.pool.allocate(count, kind)  # type: ignore[arg-type]
            assert self.pool.free == free
            return
        pages = self.pool.allocate(count, kind)  # type: ignore[arg-type]
        held = {page for holder in self.holders for page in holder}
        assert not held & set(pages)
        if kind == "knowledge":
            self.pool.publish(pages)
            self.published |= set(pages)
        self.holders.append(pages)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        pages = data.draw(st.sampled_from(self.holders))
        self.pool.retain(pages)
        self.holders.append(list(pages))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.holders) - 1))
        self.pool.release(self.holders.pop(index))
        self.published &= {page for holder in self.holders for page in holder}

    @invariant()
    def books_balance(self) -> None:
        self.pool.audit()
        for page in range(self.pool.total):
            count = sum(holder.count(page) for holder in self.holders)
            assert self.pool.references(page) == count
            assert self.pool.is_writable(page) == (count == 1 and page not in self.published)


TestPool = PoolMachine.TestCase


def test_misuse_is_refused() -> None:
    pool = PagePool(2)
    pages = pool.allocate(1, "context")
    with pytest.raises(ValueError, match="not a knowledge page"):
        pool.publish(pages)
    pool.release(pages)
    with pytest.raises(ValueError, match="released twice"):
        pool.release(pages)
    with pytest.raises(ValueError, match="cannot be retained"):
        pool.retain(pages)
    with pytest.raises(ValueError, match="at least one page"):
        PagePool(0)
