"""Three servers on one log in PostgreSQL: kill -9 of any of them, or of the database, while edits go on.

DEATHS: how many, 12 if it is not set; `make test-postgres` runs more.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.verification import verify
from loadtests.database import Database, missing, temporary_database
from loadtests.serving import free_ports
from tests.server.live import start

DEATHS = int(os.environ.get("DEATHS", "12"))
SEED = int(os.environ.get("SEED", "1"))
SERVERS = 3
START_SECONDS = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + 60 * DEATHS)]


class Replica:
    """A server that is started again whenever it has ended."""

    def __init__(self, directory: Path, port: int, knowledge_url: str, checkpoint: Checkpoint) -> None:
        shutil.copytree(checkpoint.directory, directory / "models" / "tiny")
        self._log = directory / "log"
        self._port = port
        self._environment = {
            "KALMAGROVE_DATA_DIR": str(directory),
            "KALMAGROVE_MODEL": "tiny",
            "KALMAGROVE_CACHE_GIB": "0.05",
            "KALMAGROVE_DTYPE": "float32",
            "KALMAGROVE_KNOWLEDGE_URL": knowledge_url,
            "KALMAGROVE_MIN_VERSION_WAIT_S": "5",
        }
        self.url = f"http://127.0.0.1:{port}"
        self._ended = False
        self._child = start(self._environment, self._log, port)
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        self._ended = True
        self._keeper.join()
        self._child.kill()
        self._child.wait()

    def ready(self) -> bool:
        try:
            told = httpx.get(f"{self.url}/ready", timeout=5)
        except httpx.TransportError:
            return False
        return told.status_code == 200 and told.json()["knowledge_log"] == "connected"

    def _keep(self) -> None:
        while not self._ended:
            try:
                self._child.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            if not self._ended:
                self._child = start(self._environment, self._log, self._port)


@dataclass
class Record:
    """What clients know. Every edit writes a fact of its own."""

    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Told by the server that they are not there."""
    stale: list[str] = field(default_factory=list)
    reads: int = 0
    over: threading.Event = field(default_factory=threading.Event)


def edit(number: int, urls: list[str], record: Record) -> None:
    """One after the other, at one server until it fails."""
    with httpx.Client(timeout=30) as http:
        for serial in range(10**6):
            if record.over.is_set():
                return
            name = f"fact-{number}-{serial}"
            record.sent[name] = f"The keeper of lighthouse {name} is number {serial}."
            url = urls[(number + serial // 25) % len(urls)]
            fact = {"id": name, "text": record.sent[name], "if_version": 0}
            try:
                reply = http.put(f"{url}/admin/kb/facts", json={"facts": [fact]})
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if reply.status_code == 200:
                record.acknowledged[name] = reply.json()["version"]
                continue
            assert reply.status_code == 503, reply.text
            assert reply.headers["retry-after"]
            if reply.json()["error"]["code"] != "knowledge_write_unknown":
                record.refused.add(name)
            time.sleep(0.05)


def read(urls: list[str], record: Record) -> None:
    """What was acknowledged last, at any server, by its version."""
    draw = random.Random(SEED)
    with httpx.Client(timeout=30) as http:
        while not record.over.is_set():
            time.sleep(0.05)
            if not record.acknowledged:
                continue
            name, version = next(reversed(record.acknowledged.items()))
            body = {"query": record.sent[name], "min_version": version, "retrieval": "lexical", "top_k": 1}
            try:
                reply = http.post(f"{draw.choice(urls)}/admin/kb/search", json=body)
            except httpx.TransportError:
                continue
            if reply.status_code == 200:
                record.reads += 1
                if reply.json()["version"] < version or [hit["fact"]["id"] for hit in reply.json()["hits"]] != [name]:
                    record.stale.append(f"{name} at {version}: {reply.text[:300]}")


def until(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def database() -> Iterator[Database]:
    if why := missing():
        pytest.skip(why)
    with temporary_database() as database:
        yield database


@pytest.fixture
def replicas(database: Database, tmp_path: Path, tiny: Checkpoint) -> Iterator[list[Replica]]:
    with ExitStack() as running:
        started = []
        for number, port in enumerate(free_ports(SERVERS)):
            started.append(Replica(tmp_path / str(number), port, database.url, tiny))
            running.callback(started[-1].close)
        until(lambda: all(one.ready() for one in started))
        yield started


def kill_one(draw: random.Random, replicas: list[Replica], database: Database) -> str:
    """Every fourth one is the database, which comes back a moment later."""
    if draw.random() < 0.25:
        database.kill()
        time.sleep(draw.uniform(0, 2))
        database.start()
        return "database"
    draw.choice(replicas).kill()
    return "server"


def held(replica: Replica) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its version, and every fact with its own."""
    facts: dict[str, dict[str, Any]] = {}
    with httpx.Client(base_url=replica.url, timeout=60) as http:
        page = http.get("/admin/kb/facts?limit=1000").json()
        facts |= {fact["id"]: fact for fact in page["facts"]}
        while page["next_cursor"]:
            page = http.get("/admin/kb/facts", params={"limit": 1000, "cursor": page["next_cursor"]}).json()
            facts |= {fact["id"]: fact for fact in page["facts"]}
    return page["version"], facts


def test_nothing_acknowledged_is_lost(database: Database, replicas: list[Replica]) -> None:
    draw, record, killed = random.Random(SEED), Record(), list[str]()
    urls = [one.url for one in replicas]
    threads = [threading.Thread(target=edit, args=(number, urls, record)) for number in range(SERVERS)]
    threads.append(threading.Thread(target=read, args=(urls, record)))
    for thread in threads:
        thread.start()
    try:
        for _ in range(DEATHS):
            until(lambda: sum(one.ready() for one in replicas) >= SERVERS - 1)
            acknowledged = len(record.acknowledged)
            until(lambda before=acknowledged: len(record.acknowledged) > before)  # type: ignore[misc]
            time.sleep(draw.uniform(0, 1))
            killed.append(kill_one(draw, replicas, database))
    finally:
        record.over.set()
        for thread in threads:
            thread.join()
    until(lambda: all(one.ready() for one in replicas))
    newest = max(record.acknowledged.values())
    until(lambda: len({held(one)[0] for one in replicas}) == 1 and held(replicas[0])[0] >= newest)
    version, facts = held(replicas[0])
    assert [held(one) for one in replicas[1:]] == [(version, facts)] * (SERVERS - 1)
    assert {name: facts[name]["version"] for name in record.acknowledged} == record.acknowledged
    assert {name: fact["text"] for name, fact in facts.items()}.items() <= record.sent.items()
    assert facts.keys().isdisjoint(record.refused)
    assert len(set(record.acknowledged.values())) == len(record.acknowledged)
    assert version == len(facts)  # each edit once: one version, one fact
    assert record.stale == []
    assert record.reads > DEATHS
    assert verify(database.url).version == version
    print(
        f"{DEATHS} deaths ({killed.count('database')} of the database): {len(record.sent)} edits sent, "
        f"{len(record.acknowledged)} acknowledged, {len(facts)} held, {record.reads} reads by version, none stale"
    )
