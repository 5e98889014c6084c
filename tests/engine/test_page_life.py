"""The state machine of pages: whatever the order of calls, what is forgotten goes, and what is held stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.engine.pages.life import PageLife, State

SIZE = 100
KEYS = "abcd"


def machine(limit: int = 10 * SIZE) -> tuple[PageLife, list[str]]:
    gone: list[str] = []
    return PageLife(limit, gone.append), gone


def test_a_fact_forgotten_while_it_is_made_is_dropped_when_it_is_there() -> None:
    life, unlinked = machine()
    life.making("a")
    assert life.forget(["a"]) == []
    assert life.state("a") is State.FORGOTTEN
    assert not life.stored("a", SIZE)
    assert (life.state("a"), unlinked) == (None, ["a"])


def test_a_reader_keeps_what_is_forgotten_to_its_end() -> None:
    life, unlinked = machine()
    life.making("a")
    life.read(["a"])
    life.forget(["a"])
    assert life.resident("a")
    assert life.state("a") is State.FORGOTTEN
    assert life.unread(["a"]) == ["a"]
    assert (life.state("a"), unlinked) == (None, [])


def test_wanted_again_is_there_again() -> None:
    life, unlinked = machine()
    life.making("a")
    life.stored("a", SIZE)
    life.read(["a"])
    life.forget(["a"])
    life.want("a")
    assert life.unread(["a"]) == []
    assert (life.state("a"), unlinked) == (State.MADE, [])


def test_a_late_write_of_a_forgotten_fact_goes() -> None:
    life, unlinked = machine()
    life.making("a")
    life.resident("a")
    life.writing("a")
    assert life.forget(["a"]) == ["a"], "memory need not wait for the disk"
    life.stored("a", SIZE)
    life.written("a")
    assert (life.state("a"), unlinked) == (None, ["a"])


def test_the_longest_unused_goes_first_and_what_is_read_stays() -> None:
    life, unlinked = machine(2 * SIZE)
    for key in "ab":
        life.making(key)
        life.stored(key, SIZE)
    life.touch("a")
    life.read(["b"])
    life.making("c")
    life.stored("c", SIZE)
    assert unlinked == ["a"]
    assert life.is_stored("b")
    life.unread(["b"])
    assert unlinked == ["a"]


class Lives(RuleBasedStateMachine):
    """Against a model: the set of held facts, the number of readers, and which files there are."""

    @initialize()
    def begin(self) -> None:
        self.files: set[str] = set()
        self.life = PageLife(2 * SIZE, self.files.discard)
        self.held: set[str] = set()
        self.readers = dict.fromkeys(KEYS, 0)
        self.making: set[str] = set()
        self.resident: set[str] = set()
        self.writing: set[str] = set()
        self.cached: set[str] = set()
        """Made for a reader, and not forgotten since."""

    @rule(key=st.sampled_from(KEYS))
    def want(self, key: str) -> None:
        self.held.add(key)
        self.life.want(key)

    @rule(keys=st.sets(st.sampled_from(KEYS)))
    def forget(self, keys: set[str]) -> None:
        self.held -= keys
        self.cached -= keys
        self.resident -= set(self.life.forget(keys))

    @rule(key=st.sampled_from(KEYS))
    def make(self, key: str) -> None:
        """What is in memory is not made again."""
        if key not in self.resident and (key in self.held or self.readers[key]):
            if self.life.state(key) is not State.FORGOTTEN:
                self.cached.add(key)
            self.making.add(key)
            self.life.making(key)

    @precondition(lambda self: self.making)
    @rule(data=st.data(), stored=st.booleans())
    def finish(self, data: st.DataObject, stored: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.making)))
        self.making.discard(key)
        if stored:
            self.files.add(key)
            used = self.life.stored(key, SIZE)
            assert used == (key in self.held | self.cached or self.readers[key] > 0)
        elif self.life.resident(key):
            self.resident.add(key)

    @precondition(lambda self: self.making)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.making)))
        self.making.discard(key)
        self.life.failed(key)

    @rule(key=st.sampled_from(KEYS))
    def read(self, key: str) -> None:
        self.readers[key] += 1
        self.life.read([key])

    @rule(key=st.sampled_from(KEYS))
    def unread(self, key: str) -> None:
        if self.readers[key]:
            self.readers[key] -= 1
            self.resident -= set(self.life.unread([key]))

    @rule(key=st.sampled_from(KEYS))
    def begin_write(self, key: str) -> None:
        if key in self.resident and self.life.state(key) is State.MADE:
            self.writing.add(key)
            self.life.writing(key)

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), works=st.booleans())
    def end_write(self, data: st.DataObject, works: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.writing)))
        self.writing.discard(key)
        if works:
            self.files.add(key)
            self.life.stored(key, SIZE)
        self.life.written(key)

    @rule(key=st.sampled_from(KEYS))
    def evict(self, key: str) -> None:
        if key in self.resident:
            self.resident.discard(key)
            self.life.evicted(key)

    @invariant()
    def the_books_balance(self) -> None:
        self.life.audit()
        assert self.files == set(self.life.stored_keys())

    @invariant()
    def nothing_stays_of_a_fact_that_is_gone(self) -> None:
        idle = {key for key in KEYS if not self.readers[key] and key not in self.making}
        gone = idle - self.held - self.cached
        assert not self.resident & gone
        assert not self.files & gone - self.writing


TestLives = Lives.TestCase


@given(st.lists(st.sampled_from(KEYS), min_size=1))
def test_no_more_is_kept_than_the_limit_but_for_the_newest(order: list[str]) -> None:
    life, _ = machine(SIZE)
    for key in order:
        life.making(key)
        life.stored(key, SIZE)
    assert life.stored_keys() == order[-1:]


def test_what_is_there_is_counted() -> None:
    life, _ = machine(10 * SIZE)
    for key in "abc":
        life.making(key)
        life.making(key)
    assert len(life) == 0
    life.resident("a")
    life.stored("b", SIZE)
    life.failed("c")
    assert len(life) == 2
    life.evicted("a")
    life.forget(["b"])
    assert len(life) == 0
