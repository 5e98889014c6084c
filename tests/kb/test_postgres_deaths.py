"""Three stores in processes of their own on one log: kill -9 of any of them, or of PostgreSQL, in the midst of edits,
while history is let go.

DEATHS: how many, 40 if it is not set. `tests/server/test_replica_deaths.py` does the same to whole servers.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from kb.errors import KnowledgeError
from kb.store import Store
from kb.verification import verify
from loadtests.database import Database, missing, temporary_database
from tests.kb.editing import Editor, start_editor
from tests.kb.hashing import HashEncoder

DEATHS = int(os.environ.get("DEATHS", "40"))
SEED = int(os.environ.get("SEED", "1"))
STORES = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300 + 10 * DEATHS),
    # psycopg cannot close a cursor whose connection is gone, and complains that nobody did.
    pytest.mark.filterwarnings("ignore:.*ServerCursor.* was deleted while still open:ResourceWarning"),
]


@dataclass
class Record:
    """What was asked for, each fact once, and what was answered."""

    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    alive: dict[int, Editor] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def database() -> Iterator[Database]:
    if why := missing():
        pytest.skip(why)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.kb.editing"])
    with temporary_database() as database:
        yield database


def keep_editing(number: int, url: str, record: Record) -> None:
    """One store after the other, each until it is killed."""
    serial = 0
    while not record.over.is_set():
        try:
            with start_editor(url) as editor:
                record.alive[number] = editor
                while not record.over.is_set():
                    serial += 1
                    edit(editor, f"f{number}-{serial}", record)
        except (EOFError, ConnectionError, BrokenPipeError):
            record.alive.pop(number, None)
            time.sleep(0.02)


def edit(editor: Editor, name: str, record: Record) -> None:
    record.sent[name] = f"text of {name}"
    answer: dict[str, Any] = editor.ask(upsert={name: record.sent[name]})
    if answer["ok"]:
        record.acknowledged[name] = answer["version"]
        return
    if "may be there" not in answer["error"]:
        record.refused.add(name)
    time.sleep(0.02)


def opened(url: str) -> Store:
    while True:
        try:
            return Store.open(url, HashEncoder())
        except KnowledgeError:
            time.sleep(0.1)


def keep_letting_go(store: Store, record: Record) -> None:
    """All history that may go, whatever its age."""
    while not record.over.is_set():
        with suppress(KnowledgeError):
            store.compact(math.inf)
        time.sleep(0.1)


def test_nothing_acknowledged_is_lost(database: Database) -> None:
    draw, record = random.Random(SEED), Record()
    threads = [threading.Thread(target=keep_editing, args=(number, database.url, record)) for number in range(STORES)]
    told: list[int] = []
    databases = 0
    with opened(database.url) as watching:
        watching.subscribe(lambda published: told.append(published.version))
        threads.append(threading.Thread(target=keep_letting_go, args=(watching, record)))
        for thread in threads:
            thread.start()
        try:
            for _ in range(DEATHS):
                acknowledged = len(record.acknowledged)
                deadline = time.monotonic() + 60
                while len(record.acknowledged) < acknowledged + 5 or not record.alive:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                time.sleep(draw.uniform(0, 0.1))
                if draw.random() < 0.25:
                    databases += 1
                    database.kill()
                    time.sleep(draw.uniform(0, 1))
                    database.start()
                else:
                    draw.choice(list(record.alive.values())).kill()
        finally:
            record.over.set()
            for thread in threads:
                thread.join()
        with opened(database.url) as fresh:
            version, facts = fresh.snapshot.version, dict(fresh.snapshot.by_key)
            oldest = fresh.past.oldest()
        deadline = time.monotonic() + 30
        while watching.snapshot.version < version:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert dict(watching.snapshot.by_key) == facts
        assert told == list(range(1, version + 1))
    held = {fact.id: fact for fact in facts.values()}
    assert {name: held[name].version for name in record.acknowledged} == record.acknowledged
    assert {name: fact.text for name, fact in held.items()}.items() <= record.sent.items()
    assert held.keys().isdisjoint(record.refused)
    assert version == len(held)  # each edit once
    assert oldest > version / 2
    assert verify(database.url).version == version
    gc.collect()
    print(
        f"{DEATHS} deaths ({databases} of the database): {len(record.sent)} edits sent, {len(record.acknowledged)} "
        f"acknowledged, {len(record.refused)} refused, {len(held)} held"
    )
