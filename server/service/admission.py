"""Who goes next: one bounded, weighted fair queue in front of whatever is scarce.

A place may be reserved at first; it waits in line, holds a slot, is given back. What is reserved counts, but gets no
slot. A free one goes to the caller that holds the fewest for its weight; of its namespaces, to the one that holds the
fewest; between equals, to what came first; within a key, in order of arrival. The last few slots are only for callers
that hold none: however much one sends, another one's first request finds a slot free.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from server.service.errors import Overloaded

SPARE = 8
"""One slot in so many is kept for callers that hold none."""
RETURNS_PER_S = 64
"""Of those who are refused: a thousand that come back in one second take all of it to be refused again."""
LONGEST_RETURN_S = 15


@dataclass(frozen=True, slots=True)
class Key:
    """Who is to be treated fairly."""

    caller: str
    namespace: str = ""
    """Where one caller's edits are told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one queue."""

    slots: int
    waiting: int
    per_caller: int
    """Slots and places to wait in together, of one caller."""
    shared: bool = True
    """Whether there is anybody else to keep a slot for."""


@dataclass(slots=True, eq=False)
class Place:
    """One place in the queue."""

    key: Key
    number: int
    """In order of arrival, over all keys."""
    lined_up_at: float | None = None
    """None: it is only reserved."""
    admitted_at: float | None = None
    """None: it has no slot yet. Both on time.monotonic()'s clock."""
    _turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def waited(self) -> float:
        """Seconds in line, until it was admitted."""
        if self.lined_up_at is None or self.admitted_at is None:
            return 0.0
        return self.admitted_at - self.lined_up_at

    async def turn(self) -> None:
        """Return once the place holds a slot."""
        await self._turn

    def admit(self) -> None:
        """It holds a slot from now on."""
        self.admitted_at = time.monotonic()
        if not self._turn.done():  # whoever waited may have been cancelled, and has yet to leave
            self._turn.set_result(None)


class Admission:
    """Belongs to one event loop. `what` is the plural of what is admitted, for messages; a caller weighs 1 unless
    `weights` says otherwise."""

    def __init__(self, what: str, bounds: Bounds, weights: Mapping[str, float]) -> None:
        self.what = what
        self._bounds = bounds
        self._weights = weights
        self._spare = bounds.slots // SPARE if bounds.shared else 0
        self._numbers = itertools.count()
        self._returns: dict[str, float] = {}
        """When each caller's last refused request was told to come back, on time.monotonic()'s clock."""
        self._reserved: dict[Key, set[Place]] = {}
        self._waiting: dict[Key, deque[Place]] = {}
        self._holding: dict[Key, set[Place]] = {}

    @property
    def waiting(self) -> int:
        """Places without a slot."""
        return _places(self._reserved) + _places(self._waiting)

    @property
    def holding(self) -> int:
        """Places with one."""
        return _places(self._holding)

    @contextmanager
    def join(self, key: Key, count: int = 1, *, reserved: bool = False) -> Iterator[list[Place]]:
        """So many places at the end of the key's queue, each to be waited for; all are given back in the end.

        `reserved`: they get no slot before they line up. Raises Overloaded, taking none, if that many cannot wait.
        """
        self.require_room(key.caller, count)
        places = [Place(key, next(self._numbers)) for _ in range(count)]
        self._reserved.setdefault(key, set()).update(places)
        if not reserved:
            self.line_up(places)
        try:
            yield places
        finally:
            for place in places:
                self.leave(place)

    @asynccontextmanager
    async def enter(self, key: Key) -> AsyncGenerator[None, None]:
        """Hold one slot. Raises Overloaded."""
        with self.join(key) as (place,):
            await place.turn()
            yield

    def line_up(self, places: Sequence[Place]) -> None:
        """Those that were reserved wait for a slot from now on, in the order in which the key's places were joined."""
        for place in places:
            if place in self._reserved.get(place.key, ()):
                _remove(self._reserved, place)
                place.lined_up_at = time.monotonic()
                bisect.insort(self._waiting.setdefault(place.key, deque()), place, key=lambda one: one.number)
        self._admit()

    def again(self, place: Place) -> Place:
        """A place that holds a slot, or waits for one, is given back for a new one at the end of the key's queue."""
        successor = Place(place.key, next(self._numbers))
        self._reserved.setdefault(place.key, set()).add(successor)
        self.leave(place)
        self.line_up([successor])
        return successor

    def leave(self, place: Place) -> None:
        """Give back what the place holds or waits for. Idempotent."""
        for places in (self._reserved, self._waiting, self._holding):
            if place in places.get(place.key, ()):
                _remove(places, place)
        self._admit()

    def require_room(self, caller: str, count: int = 1) -> None:
        """Raises Overloaded if so many more of the caller could not wait now; takes no place."""
        bounds, everyone = self._bounds, self.waiting + self.holding
        own = sum(_places(places, caller) for places in (self._reserved, self._waiting, self._holding))
        if everyone + count > bounds.slots + bounds.waiting or own + count > bounds.per_caller:
            raise Overloaded(f"Too many {self.what} at once. Try again shortly.", self._return(caller))

    def _return(self, caller: str) -> int:
        """In how many seconds a refused request is to come back: after the caller's one before."""
        now = time.monotonic()
        after = self._returns.get(caller, 0.0) + 1 / RETURNS_PER_S
        self._returns[caller] = at = min(max(now + 1, after), now + LONGEST_RETURN_S)
        return max(1, int(at - now))

    def _admit(self) -> None:
        while (key := self._next()) is not None:
            place = self._waiting[key][0]
            _remove(self._waiting, place)
            self._holding.setdefault(key, set()).add(place)
            place.admit()

    def _next(self) -> Key | None:
        """Whose first place gets a slot now; None: nobody's."""
        free = self._bounds.slots - self.holding
        if free == 0 or not self._waiting:
            return None
        key = min(self._waiting, key=self._standing)
        return key if free > self._spare or not _places(self._holding, key.caller) else None

    def _standing(self, key: Key) -> tuple[float, int, int]:
        """The least goes first."""
        share = _places(self._holding, key.caller) / self._weights.get(key.caller, 1.0)
        return share, len(self._holding.get(key, ())), self._waiting[key][0].number


def _places(by_key: Mapping[Key, Collection[Place]], caller: str | None = None) -> int:
    """How many there are, of one caller or of all."""
    return sum(len(places) for key, places in by_key.items() if caller in (None, key.caller))


def _remove(by_key: dict[Key, deque[Place]] | dict[Key, set[Place]], place: Place) -> None:
    by_key[place.key].remove(place)
    if not by_key[place.key]:
        del by_key[place.key]
