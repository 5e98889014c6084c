"""The life of a fact's pages, for both engines. No I/O: what must go from the disk is told to `unlink`.

             making                   resident, stored             read, unread
    unknown ────────▶ WANTED ────────────────────────▶ MADE ◀──────────────────────▶ MADE, with readers
       ▲                 │ forget                        │ forget
       │                 ▼                               ▼
       └──────────── FORGOTTEN ◀─────────────────────────┘
       nobody makes      │
       or reads it       └─▶ WANTED or MADE again when somebody wants it

Forgetting is final for the disk and the cache the moment nobody makes or reads the pages, in whatever order the calls
come: what is finished after it was forgotten is for those who read it already, and goes with the last of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Whether a fact wants its pages, and whether they are there."""

    WANTED = "wanted"
    MADE = "made"
    FORGOTTEN = "forgotten"


@dataclass(slots=True)
class Page:
    """What is known of one fact's pages."""

    state: State = State.WANTED
    making: bool = False
    writing: bool = False
    readers: int = 0
    resident: bool = False
    """In memory."""
    stored_bytes: int | None = None
    """On disk; None: not there."""

    @property
    def there(self) -> bool:
        return self.resident or self.stored_bytes is not None

    @property
    def used(self) -> bool:
        return self.making or self.writing or self.readers > 0


class PageLife:
    """Thread-safe. On disk at most `limit_bytes`; of what nobody reads, the least recently used goes first."""

    def __init__(self, limit_bytes: int, unlink: Callable[[str], None]) -> None:
        """`unlink` must not block: it is called under the lock."""
        self._limit = limit_bytes
        self._unlink = unlink
        self._lock = threading.RLock()
        self._pages: OrderedDict[str, Page] = OrderedDict()
        self._stored = 0
        self._latest = 0
        """Bytes of what was stored last."""
        self._under_way = 0
        """Being made."""

    def __len__(self) -> int:
        """Facts whose pages are there."""
        return len(self._pages) - self._under_way

    @property
    def full(self) -> bool:
        """Whether another one on disk would be at the cost of others."""
        return self._stored + self._latest > self._limit

    def is_made(self, key: str) -> bool:
        """True if the pages are there, for a fact that wants them."""
        return self.state(key) is State.MADE

    def state(self, key: str) -> State | None:
        """None: unknown."""
        with self._lock:
            page = self._pages.get(key)
            return None if page is None else page.state

    def is_read(self, key: str) -> bool:
        """True while somebody reads them, or waits to."""
        with self._lock:
            page = self._pages.get(key)
            return page is not None and page.readers > 0

    def is_stored(self, key: str) -> bool:
        """True if the content is on disk and may be used."""
        with self._lock:
            page = self._pages.get(key)
            return page is not None and page.stored_bytes is not None

    def is_cold(self, key: str) -> bool:
        """True if the content is on disk and not in memory."""
        with self._lock:
            page = self._pages.get(key)
            return page is not None and page.stored_bytes is not None and not page.resident

    def touch(self, key: str) -> bool:
        """Count it as used now. True if it is on disk."""
        with self._lock:
            if key in self._pages:
                self._pages.move_to_end(key)
            return self.is_stored(key)

    def want(self, key: str) -> None:
        """A fact has these pages (again): what was forgotten of them is not."""
        with self._lock:
            if (page := self._pages.get(key)) is not None:
                page.state = State.MADE if page.there else State.WANTED

    def making(self, key: str) -> None:
        """They are being made, for a fact or a reader: `resident`, `stored` or `failed` will follow."""
        with self._lock:
            page = self._pages.setdefault(key, Page())
            self._under_way += not page.making
            page.making = True

    def resident(self, key: str) -> bool:
        """They are in memory now. False if nobody has a use for them (any more): the caller drops them."""
        with self._lock:
            return self._made(key, resident=True)

    def stored(self, key: str, size: int) -> bool:
        """They are on disk now. False if nobody has a use for them: they go again."""
        with self._lock:
            page = self._pages.setdefault(key, Page(State.FORGOTTEN))
            self._stored += size - (page.stored_bytes or 0)
            page.stored_bytes = self._latest = size
            self._pages.move_to_end(key)
            kept = self._made(key)
            self.trim(self._stored - self._limit, spare=key)
            return kept

    def failed(self, key: str) -> None:
        """They could not be made."""
        with self._lock:
            if (page := self._pages.get(key)) is not None:
                self._end_making(page)
                self._settle(key)

    def writing(self, key: str) -> None:
        """They are about to be written: `written` will follow, with or without `stored`."""
        with self._lock:
            self._pages.setdefault(key, Page(State.FORGOTTEN)).writing = True

    def written(self, key: str) -> None:
        """The write is over, however it went."""
        with self._lock:
            if (page := self._pages.get(key)) is not None:
                page.writing = False
                self._unmade(key, page)

    def evicted(self, key: str) -> None:
        """They are not in memory any more."""
        with self._lock:
            if (page := self._pages.get(key)) is not None:
                page.resident = False
                self._unmade(key, page)

    def missing(self, key: str) -> None:
        """They are not on disk any more."""
        with self._lock:
            if (page := self._pages.get(key)) is not None:
                self._forget_size(page)
                self._unmade(key, page)

    def read(self, keys: Iterable[str]) -> None:
        """One more reader for each. Somebody who reads what is forgotten does not bring it back."""
        with self._lock:
            for key in keys:
                self._pages.setdefault(key, Page()).readers += 1

    def unread(self, keys: Iterable[str]) -> list[str]:
        """The reader is done. Those that are gone with it: whoever has them in memory drops them."""
        with self._lock:
            gone = []
            for key in keys:
                self._pages[key].readers -= 1
                if self._settle(key):
                    gone.append(key)
            self.trim(self._stored - self._limit)
            return gone

    def forget(self, keys: Iterable[str]) -> list[str]:
        """Their facts are gone. Those that are gone at once: whoever has them in memory drops them."""
        with self._lock:
            gone = []
            for key in keys:
                if (page := self._pages.get(key)) is not None:
                    page.state = State.FORGOTTEN
                    if self._settle(key):
                        gone.append(key)
            return gone

    def forget_all_but(self, held: Collection[str]) -> list[str]:
        """`forget` every fact whose key is not among `held`."""
        with self._lock:
            return self.forget([key for key in self._pages if key not in held])

    def trim(self, excess: int, spare: str | None = None) -> None:
        """Give up files that nobody reads, the longest unused first, until `excess` bytes are gone."""
        with self._lock:
            for key, page in list(self._pages.items()) if excess > 0 else ():
                if excess <= 0:
                    return
                if page.stored_bytes is not None and not page.readers and key != spare:
                    excess -= page.stored_bytes
                    self._unlink(key)
                    self.missing(key)

    def stored_keys(self) -> list[str]:
        """What is on disk."""
        with self._lock:
            return [key for key, page in self._pages.items() if page.stored_bytes is not None]

    def audit(self, held: Iterable[str] | None = None) -> None:
        """AssertionError if the books do not balance; `held`: the keys that facts have, while nothing is under way."""
        with self._lock:
            assert self._under_way == sum(page.making for page in self._pages.values()), "a making was not ended"
            assert self._stored == sum(page.stored_bytes or 0 for page in self._pages.values()), "sizes do not add up"
            for key, page in self._pages.items():
                assert page.used or page.state is State.MADE, f"{key} is {page.state.value} and held by nobody"
                assert page.used or page.there, f"{key} is nowhere"
            if held is not None:
                orphans = {key for key, page in self._pages.items() if not page.used} - set(held)
                assert not orphans, f"pages of no fact: {sorted(orphans)}"

    def _made(self, key: str, *, resident: bool = False) -> bool:
        page = self._pages.setdefault(key, Page(State.FORGOTTEN))
        self._end_making(page)
        page.resident |= resident
        if page.state is State.WANTED:
            page.state = State.MADE
        return not self._settle(key)

    def _end_making(self, page: Page) -> None:
        self._under_way -= page.making
        page.making = False

    def _unmade(self, key: str, page: Page) -> None:
        if page.state is State.MADE and not page.there:
            page.state = State.WANTED
        self._settle(key)

    def _settle(self, key: str) -> bool:
        """Let go of what nobody makes or reads and no fact has, or what is nowhere. True if it must leave the memory.

        A write under way is waited for: it is not known yet what there will be to unlink.
        """
        page = self._pages[key]
        if page.making or page.readers or page.state is State.MADE:
            return False
        page.resident = False
        if page.writing:
            return True
        if page.stored_bytes is not None:
            self._forget_size(page)
            self._unlink(key)
        del self._pages[key]
        return True

    def _forget_size(self, page: Page) -> None:
        self._stored -= page.stored_bytes or 0
        page.stored_bytes = None
