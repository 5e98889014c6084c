"""Admission: nothing is lost, nobody starves, the bounds hold, and within a key the order is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.service import admission as admission_module
from server.service.admission import LONGEST_RETURN_S, RETURNS_PER_S, SPARE, Admission, Bounds, Key, Place
from server.service.errors import Overloaded

CALLERS = "abc"
keys = st.builds(Key, st.sampled_from(CALLERS), st.sampled_from(["", "one", "two"]))
bounds = st.builds(
    lambda slots, waiting, share: Bounds(slots=slots, waiting=waiting, per_caller=slots + int(waiting * share)),
    st.integers(1, 20),
    st.integers(0, 30),
    st.floats(0.1, 1),
)
weights = st.dictionaries(st.sampled_from(CALLERS), st.floats(0.1, 10))
joins = st.tuples(st.sampled_from(["join", "reserve"]), keys, st.integers(1, 4))
others = st.tuples(st.sampled_from(["leave", "line up"]), st.integers(0, 1000), st.just(0))


class Checked:
    """An admission, and what is known of its places from outside."""

    def __init__(self, bounds: Bounds, weights: dict[str, float]) -> None:
        self.admission = Admission("requests", bounds, weights)
        self.bounds = bounds
        self.present: list[Place] = []
        self.passed: dict[Place, list[Place]] = {}
        """Places of those in line, and who of their key was admitted before they lined up."""
        self._stack = ExitStack()

    def join(self, key: Key, count: int, *, reserved: bool) -> None:
        before = len(self.present)
        own = sum(place.key.caller == key.caller for place in self.present)
        fits = before + count <= self.bounds.slots + self.bounds.waiting and own + count <= self.bounds.per_caller
        try:
            places = self._stack.enter_context(self.admission.join(key, count, reserved=True))
        except Overloaded:
            assert not fits
            return
        assert fits
        self.present += places
        if not reserved:
            self.line_up(places)

    def line_up(self, places: list[Place]) -> None:
        admitted = self.admitted()
        self.passed |= {place: admitted for place in places if place not in self.passed}
        self.admission.line_up(places)

    def leave(self, which: int) -> None:
        if self.present:
            self.admission.leave(self.present.pop(which % len(self.present)))

    def admitted(self) -> list[Place]:
        return [place for place in self.present if place.admitted_at is not None]

    def check(self) -> None:
        admitted = self.admitted()
        waiting = [place for place in self.present if place.admitted_at is None]
        assert (self.admission.holding, self.admission.waiting) == (len(admitted), len(waiting))
        assert len(admitted) <= self.bounds.slots
        holding = Counter(place.key.caller for place in admitted)
        free = self.bounds.slots - len(admitted)
        assert all(place in self.passed for place in admitted)
        for place in waiting:
            if place not in self.passed:  # reserved
                continue
            # Only the last slots are kept, and only from those who hold one.
            assert free == 0 or (holding[place.key.caller] > 0 and free <= self.bounds.slots // SPARE)
            later = [one for one in admitted if one.key == place.key and one not in self.passed[place]]
            assert all(one.number < place.number for one in later)


@given(bounds, weights, st.lists(joins | others, max_size=60))
def test_any_coming_and_going(
    bounds: Bounds, weights: dict[str, float], steps: list[tuple[str, Key | int, int]]
) -> None:
    async def go() -> None:
        checked = Checked(bounds, weights)
        for step, what, count in steps:
            if isinstance(what, Key):
                checked.join(what, count, reserved=step == "reserve")
            elif step == "leave":
                checked.leave(what)
            elif checked.present:
                checked.line_up([checked.present[what % len(checked.present)]])
            checked.check()
        checked.line_up(checked.present)
        # Whoever waits gets a turn when all those before have ended: nobody is lost, nobody starves.
        while len(admitted := checked.admitted()) < len(checked.present):
            assert admitted, "everybody waits"
            checked.leave(checked.present.index(admitted[0]))
            checked.check()

    asyncio.run(go())


@given(st.integers(2, 20), st.floats(0.25, 4))
def test_slots_are_shared_by_weight(slots: int, weight: float) -> None:
    """Two callers with more than enough to do, however the first has filled the slots."""

    async def go() -> None:
        many = Bounds(slots=slots, waiting=1000, per_caller=1000)
        admission = Admission("requests", many, {"heavy": weight})
        with admission.join(Key("light"), 200) as light, admission.join(Key("heavy"), 200) as heavy:
            for _ in range(3 * slots):  # the oldest ends
                oldest = min((one for one in [*light, *heavy] if one.admitted_at), key=lambda one: one.admitted_at or 0)
                light, heavy = [one for one in light if one is not oldest], [one for one in heavy if one is not oldest]
                admission.leave(oldest)
            held = _held(heavy), _held(light)
            share = weight / (1 + weight)
            assert held[0] == pytest.approx(share * sum(held), abs=1)

    asyncio.run(go())


def _held(places: list[Place]) -> int:
    return sum(place.admitted_at is not None for place in places)


async def test_what_is_reserved_counts_and_holds_nothing() -> None:
    admission = Admission("requests", Bounds(slots=4, waiting=2, per_caller=6), {})
    with admission.join(Key("one"), 4, reserved=True) as places, admission.join(Key("one"), 2):
        assert (admission.holding, admission.waiting) == (2, 4)
        with pytest.raises(Overloaded), admission.join(Key("one")):
            pass
        admission.line_up(places[:1])
        async with asyncio.timeout(1):
            await places[0].turn()
        assert (admission.holding, admission.waiting) == (3, 3)
    assert (admission.holding, admission.waiting) == (0, 0)


async def test_a_flood_of_one_key_leaves_a_slot_for_another() -> None:
    admission = Admission("requests", Bounds(slots=16, waiting=64, per_caller=64), {})
    with admission.join(Key("flood"), 60):
        assert admission.waiting > 0
        async with asyncio.timeout(1), admission.enter(Key("other")):
            pass


async def test_whoever_leaves_while_waiting_leaves_no_trace() -> None:
    admission = Admission("requests", Bounds(slots=1, waiting=10, per_caller=10), {})

    async def enter() -> None:
        async with admission.enter(Key("other")):
            raise AssertionError("there was no slot")

    with admission.join(Key("one")):
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0)
        assert admission.waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (admission.waiting, admission.holding) == (0, 1)
    assert (admission.waiting, admission.holding) == (0, 0)


async def test_whoever_is_admitted_and_cancelled_at_once_gives_the_slot_back() -> None:
    admission = Admission("requests", Bounds(slots=1, waiting=10, per_caller=10), {})

    async def enter() -> None:
        async with admission.enter(Key("other")):
            await asyncio.sleep(10)

    with admission.join(Key("one")):
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0)
    waiting.cancel()  # it has been admitted, but has not noticed
    await asyncio.gather(waiting, return_exceptions=True)
    assert (admission.waiting, admission.holding) == (0, 0)


async def test_the_more_are_refused_the_later_they_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each caller by itself; a thousand that came back in a second would only be refused again."""
    now = 1000.0
    monkeypatch.setattr(admission_module.time, "monotonic", lambda: now)
    admission = Admission("requests", Bounds(slots=1, waiting=0, per_caller=1), {})

    def refused(caller: str) -> float:
        with pytest.raises(Overloaded) as refusal, admission.join(Key(caller)):
            pass
        return refusal.value.retry_after

    with admission.join(Key("a")):
        told = [refused("a") for _ in range(2000)]
        assert told == sorted(told)
        assert (told[0], told[-1]) == (1, LONGEST_RETURN_S)
        assert max(Counter(told[:500]).values()) <= 2 * RETURNS_PER_S
        assert refused("b") == 1
        now += LONGEST_RETURN_S
        assert refused("a") == 1
