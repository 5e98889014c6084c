"""Several stores on one log in PostgreSQL."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from kb.errors import StoreCorrupt, StoreUnavailable, WriteFailed, WriteUnknown
from kb.facts import Delete, FactNotFound, UnknownVersion, Upsert, VersionConflict
from kb.following import Follower
from kb.log import postgres as postgres_log
from kb.log.location import Location
from kb.publishing import Published
from kb.store import Store
from kb.verification import verify
from tests.cut import Cut, Proxy, proxied
from tests.kb.hashing import HashEncoder

Open = Callable[..., Store]


@pytest.fixture
def replica(url: str) -> Iterator[Open]:
    """Opens stores on the same log."""
    with ExitStack() as opened:

        def another(at: str = url, encoder: Any = None, poll_seconds: float = 30.0) -> Store:
            return opened.enter_context(Store.open(at, encoder or HashEncoder(), poll_seconds=poll_seconds))

        yield another


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody follows by himself."""
    monkeypatch.setattr(Follower, "start", lambda _: None)
    monkeypatch.setattr(Follower, "stop", lambda _: None)


def put(store: Store, **texts: str) -> int:
    return store.apply([Upsert(name, "default", said) for name, said in texts.items()]).version


def held(store: Store) -> dict[str, tuple[str, int, float]]:
    return {fact.id: (fact.text, fact.version, fact.created_at) for fact in store.snapshot.by_key.values()}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def at(store: Store, version: int) -> Callable[[], bool]:
    return lambda: store.snapshot.version >= version


def test_what_one_writes_all_see_and_tell(replica: Open) -> None:
    """Woken by the log itself: the next look would be in half a minute. The vectors come with the log."""
    encoder = HashEncoder()
    one, other = replica(), replica(encoder=encoder)
    told: list[Published] = []
    other.subscribe(told.append)
    put(one, a="first", b="second")
    last = put(one, a="third")
    until(at(other, last))
    assert held(other) == held(one)
    assert encoder.embedded == []
    (hit,) = other.snapshot.search("default", encoder.embed(["third"])[0], 1, 0.9, time.time())
    assert hit.fact.id == "a"
    until(lambda: len(told) == 2)  # the snapshot is swapped first
    assert [(one.version, one.gone_texts, one.set_texts) for one in told] == [
        (1, (), ("first", "second")),
        (2, ("first",), ("third",)),
    ]
    assert put(other, c="fourth") == 3
    until(at(one, 3))
    assert held(one) == held(other)
    assert (one.followed, other.followed) == (1, 2)


def test_the_log_is_looked_at_even_if_it_says_nothing(replica: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_log, "CHANNEL", "elsewhere")
    deaf = replica(poll_seconds=0.05)
    waiting = replica(poll_seconds=60)
    time.sleep(0.1)
    monkeypatch.setattr(postgres_log, "CHANNEL", "kalmagrove_log")
    put(replica(), a="text")
    until(at(deaf, 1))
    assert waiting.snapshot.version == 0
    waiting.look_now()
    until(at(waiting, 1))


def test_the_log_is_followed_beside_a_thousand_clients(replica: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Each of whom has an open file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, before[1]), before[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        put(replica(), a="text")
        follower = replica()
        assert put(replica(), a="another") == 2
        until(at(follower, 2))
        assert [record for record in caplog.records if record.name == "kb.following"] == []
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("still")
def test_edits_look_at_the_newest_facts(replica: Open) -> None:
    """However far behind the store is to which they are sent."""
    one, late = replica(), replica()
    made = put(one, a="first")
    late.apply([Upsert("a", "default", "second", if_version=made)])
    with pytest.raises(VersionConflict, match="version 2"):
        one.apply([Upsert("a", "default", "third", if_version=made)])
    with pytest.raises(VersionConflict):
        one.apply([Upsert("a", "default", "third", if_version=0)])
    put(one, b="b")
    late.apply([Delete("b", "default")])
    with pytest.raises(FactNotFound):
        one.apply([Delete("b", "default")])
    assert late.rollback(1).version == one.snapshot.version + 1
    with pytest.raises(UnknownVersion):
        one.rollback(9)
    assert one.rollback(5).version == 6
    late.catch_up()
    assert {name: said for name, (said, *_) in held(late).items()} == {"a": "first"}
    assert held(one) == held(late)
    (change,) = late.past.differences(2, 6).differences
    assert (change.before and change.before.text, change.after and change.after.text) == ("second", "first")


@pytest.mark.usefixtures("still")
def test_the_past_ends_where_the_present_does(replica: Open) -> None:
    one, late = replica(), replica()
    put(one, a="first")
    late.catch_up()
    put(one, a="second")
    assert [entry.version for entry in late.past.log_entries()] == [1]
    assert [entry.text for entry in late.past.history("default", "a")] == ["first"]
    # Who names a version has seen it somewhere.
    assert len(late.past.differences(1, 2).differences) == 1
    assert [entry.text for entry in late.past.history("default", "a")] == ["second", "first"]


def test_writers_in_each_others_way_all_get_through(replica: Open, url: str) -> None:
    """And each conditional edit happens once: a counter loses no step."""
    stores = [replica() for _ in range(3)]
    put(stores[0], counter="0")
    steps, failures = 15, list[BaseException]()

    def count(store: Store, name: str) -> None:
        try:
            for step in range(steps):
                put(store, **{f"{name}-{step}": f"{name} {step}"})
                while True:
                    fact = store.snapshot.by_key["default", "counter"]
                    change = Upsert("counter", "default", str(int(fact.text) + 1), if_version=fact.version)
                    try:
                        store.apply([change])
                        break
                    except VersionConflict:
                        store.catch_up()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count, args=(store, f"w{number}")) for number, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    last = 1 + 2 * steps * len(stores)
    for store in stores:
        until(at(store, last))
        assert store.snapshot.version == last
        assert held(store) == held(stores[0])
    assert held(stores[0])["counter"][0] == str(steps * len(stores))
    assert verify(url).version == last


def test_facts_expire_once(replica: Open) -> None:
    stores = [replica(), replica()]
    stores[0].apply([Upsert("a", "default", "for a moment", expires_at=time.time() + 0.2), Upsert("b", "default", "b")])
    until(at(stores[1], 1))
    time.sleep(0.25)
    threads = [threading.Thread(target=store.sweep_expired, args=(time.time(),)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        until(at(store, 2))
        store.sweep_expired(time.time())
        assert (store.snapshot.version, list(held(store))) == (2, ["b"])


def test_servers_may_start_together(url: str) -> None:
    opened, failures = list[Store](), list[BaseException]()

    def start() -> None:
        try:
            opened.append(Store.open(url, HashEncoder()))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in opened:
        store.close()
    assert failures == []
    assert len(opened) == 4


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with proxied(url) as proxy:
        yield proxy


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_commit_cut_off_is_looked_for(replica: Open, proxy: Proxy, cut: Cut) -> None:
    """Acknowledged if it happened, refused if not, and published once."""
    behind, direct = replica(proxy.url), replica()
    told: list[int] = []
    behind.subscribe(lambda published: told.append(published.version))
    put(behind, a="first")
    proxy.cut = cut
    if cut == "after":
        assert put(behind, a="second") == 2
    else:
        with pytest.raises(WriteFailed):
            put(behind, a="second")
    assert proxy.cut is None
    until(lambda: behind.log_state.contact == "connected")
    assert put(behind, b="third") == (3 if cut == "after" else 2)
    until(at(direct, behind.snapshot.version))
    assert held(behind) == held(direct)
    assert told == list(range(1, behind.snapshot.version + 1))


def test_a_commit_whose_end_nobody_can_tell_is_not_acknowledged(
    replica: Open, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_log, "RECHECK_SECONDS", 0.3)
    behind, direct = replica(proxy.url), replica()
    put(behind, a="first")
    proxy.cut, proxy.close_at_cut = "after", True
    with pytest.raises(WriteUnknown):
        put(behind, a="second")
    assert held(behind)["a"][0] == "first"
    until(at(direct, 2))
    until(lambda: behind.log_state.contact == "lost")
    proxy.closed = proxy.close_at_cut = False
    until(at(behind, 2))
    assert held(behind) == held(direct)
    assert [entry.version for entry in behind.past.history("default", "a")] == [2, 1]


def test_a_lost_log_leaves_what_was_published(replica: Open, proxy: Proxy) -> None:
    behind, direct = replica(proxy.url), replica()
    put(behind, a="first")
    proxy.closed = True
    proxy.drop()
    until(lambda: behind.log_state.contact == "lost")
    with pytest.raises(StoreUnavailable):
        behind.prepare([Upsert("a", "default", "second")])
    with pytest.raises(StoreUnavailable):
        behind.past.history("default", "a")
    assert behind.sweep_expired(time.time()) is None
    assert held(behind)["a"][0] == "first"
    put(direct, a="third")
    assert behind.log_state.seconds_behind > 0
    proxy.closed = False
    until(at(behind, 2))
    until(lambda: behind.log_state.contact == "connected")
    assert held(behind) == held(direct)
    assert behind.log_state.seconds_behind == 0
    assert put(behind, a="fourth") == 3


@pytest.mark.usefixtures("still")
def test_how_far_behind(replica: Open) -> None:
    one, late = replica(), replica()
    put(one, a="first")
    put(one, a="second")
    seen: list[tuple[int, bool]] = []
    late.subscribe(lambda _: seen.append((late.log_state.versions_behind, late.log_state.seconds_behind > 0)))
    assert late.log_state.versions_behind == 0  # nobody has told it yet
    assert late.catch_up() == 2
    assert seen == [(1, True), (0, False)]
    assert (late.log_state.versions_behind, late.log_state.seconds_behind) == (0, 0.0)


@pytest.mark.parametrize("then", ["nothing", "another edit"])
def test_a_log_that_lost_its_end_is_not_followed(replica: Open, url: str, then: str) -> None:
    """As after a restored backup."""
    store = replica(poll_seconds=0.05)
    put(store, a="first")
    put(store, a="second")
    engine = create_engine(Location.of(url).url)
    with engine.begin() as connection:
        for table in ("batches", "entries", "batch_ids"):
            connection.execute(text(f"DELETE FROM {table} WHERE version = 2"))
        connection.execute(text("UPDATE heads SET version = 1, chain = (SELECT chain FROM batches)"))
    engine.dispose()
    if then == "another edit":
        other = replica()
        put(other, b="third")
        put(other, b="fourth")
    until(lambda: store.log_state.contact == "diverged")
    assert held(store)["a"][0] == "second"
    with pytest.raises(StoreUnavailable, match="diverged"):
        store.prepare([Upsert("a", "default", "third")])
    with pytest.raises(StoreCorrupt):
        store.catch_up()


def test_a_log_of_one_writer_is_taken_over(replica: Open, url: str) -> None:
    """As it was kept before there were several."""
    with Store.open(url, HashEncoder()) as store:
        put(store, a="first")
        put(store, a="second")
    engine = create_engine(Location.of(url).url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE heads, batch_ids"))
    engine.dispose()
    store = replica()
    assert (store.snapshot.version, put(store, a="third")) == (2, 3)


def test_a_head_that_is_not_the_last_batch_is_refused(url: str) -> None:
    with Store.open(url, HashEncoder()) as store:
        put(store, a="first")
        put(store, a="second")
    engine = create_engine(Location.of(url).url)
    for statement, match in (("version = 3", "version 3"), ("version = 2, format = 9", "format 9")):
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE heads SET {statement}"))
        with pytest.raises(StoreCorrupt, match=match):
            Store.open(url, HashEncoder())
    engine.dispose()


def test_commits_wait_for_the_disk(replica: Open, url: str) -> None:
    store = replica(f"{url}%20-csynchronous_commit%3Doff")
    waited_for = []
    log = store._log
    assert isinstance(log, postgres_log.PostgresLog)
    with log._writes.connect() as connection:
        waited_for.append(connection.execute(text("SHOW synchronous_commit")).scalar_one())
    assert waited_for == ["on"]


def test_urls() -> None:
    for given in ("postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"):
        assert Location.of(given).url.render_as_string(hide_password=False) == "postgresql+psycopg://u:p@h/d"
    for given in ("postgresql+asyncpg://h/d", "postgresql://h", "mysql://h/d", "nonsense://"):
        with pytest.raises(StoreUnavailable):
            Location.of(given)


def test_a_missing_driver_and_a_missing_database_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    away = "postgresql://somebody:secret@127.0.0.1:9/kalmagrove"
    with monkeypatch.context() as patch:
        patch.setattr(postgres_log, "find_spec", lambda _: None)
        with pytest.raises(StoreUnavailable, match=r"kalmagrove\[postgres\]"):
            Store.open(away, HashEncoder())
    if find_spec("psycopg") is not None:
        with pytest.raises(StoreUnavailable, match="refused") as refused:
            Store.open(away, HashEncoder())
        assert "secret" not in str(refused.value)
