"""Servers that share a facts log in PostgreSQL: how soon an edit at one of them is seen at all.

Edits go to the servers in turn. Each is followed by looks at every server, all at once and without a pause, until it
publishes the edit's version; and by a search at the next server that names the version, which must find the new text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.client import ServerClient, Target, connect
from loadtests.corpus import Item, rewritten
from loadtests.database import temporary_database
from loadtests.refusals import RequestError
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench
from loadtests.serving import serving, temporary_home

VISIBLE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One edit. Seconds since it was sent."""

    acknowledged: float
    everywhere: float
    stale: str | None
    """What was wrong with the search that named its version."""


async def run(
    options: Options, data_dir: Path, progress: Progress, *, replicas: int, database_url: str | None = None
) -> Report:
    """On so many servers of its own; without a URL on a database of its own, too.

    Raises RequestError, ServerStartError.
    """
    with _servers(data_dir, replicas, database_url, progress) as targets:
        return await measure(replace(options, target=targets[0]), targets, progress)


async def measure(options: Options, targets: Sequence[Target], progress: Progress) -> Report:
    """On these servers, which share a log. Raises RequestError."""
    async with open_bench(options, progress) as bench, _clients(targets) as clients:
        report = new_report("replicas", bench)
        report.server = f"{len(targets)} servers on one log"
        await bench.load(item.fact for item in bench.corpus)
        for serial, item in enumerate(bench.repeated(WARM_UP)):
            await _edited(bench, clients, item, serial)
        seen = [
            await _edited(bench, clients, item, serial)
            for serial, item in enumerate(bench.in_time("edits", bench.repeated(options.count)), WARM_UP)
        ]
    report.add_series("edit acknowledged (ms)", [1e3 * one.acknowledged for one in seen], options.count)
    report.add_series("edit visible at all servers (ms)", [1e3 * one.everywhere for one in seen], options.count)
    later = [1e3 * max(0.0, one.everywhere - one.acknowledged) for one in seen]
    report.add_series("from acknowledged to visible at all (ms)", later, options.count)
    stale = [one.stale for one in seen if one.stale]
    report.figures["stale answers to searches that name the version"] = len(stale)
    if stale:
        report.failures.append(f"{len(stale)} stale answers; the first: {stale[0]}")
    return report


async def _edited(bench: Bench, clients: Sequence[ServerClient], item: Item, serial: int) -> Seen:
    """At the servers in turn."""
    writer, reader = clients[serial % len(clients)], clients[(serial + 1) % len(clients)]
    fact = rewritten(item, serial)
    began = time.perf_counter()
    edit = await writer.put_facts([fact], bench.namespace, bench.expires_at)
    acknowledged = time.perf_counter() - began
    await asyncio.gather(*(_published(client, edit.version) for client in clients))
    everywhere = time.perf_counter() - began
    # Once more, so that what is read by its version is new to the reader.
    fact = rewritten(item, -1 - serial)
    edit = await writer.put_facts([fact], bench.namespace, bench.expires_at)
    named = {"query": fact.text, "namespace": bench.namespace, "min_version": edit.version}
    body = {**named, "retrieval": "lexical", "top_k": 8}
    found = await reader.json("POST", "/admin/kb/search", body=body)
    return Seen(acknowledged, everywhere, _stale(found, edit.version, fact.text))


def _stale(found: dict[str, object], version: int, text: str) -> str | None:
    if int(str(found["version"])) < version:
        return f"version {found['version']} is older than {version}"
    return None if text in str(found["hits"]) else f"version {version} is there without its text"


async def _published(client: ServerClient, version: int) -> None:
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while int((await client.json("GET", "/admin/kb/version"))["version"]) < version:
        if time.monotonic() > deadline:
            raise RequestError(f"version {version} was not published within {VISIBLE_TIMEOUT_S:.0f} s")
        await asyncio.sleep(0)


@asynccontextmanager
async def _clients(targets: Sequence[Target]) -> AsyncIterator[list[ServerClient]]:
    async with AsyncExitStack() as open_ones:
        yield [await open_ones.enter_async_context(connect(target)) for target in targets]


@contextmanager
def _servers(data_dir: Path, replicas: int, database_url: str | None, progress: Progress) -> Iterator[list[Target]]:
    with ExitStack() as running:
        url = database_url or running.enter_context(temporary_database()).url
        targets = []
        for number in range(replicas):
            progress("starting servers", number, replicas)
            home = running.enter_context(temporary_home(data_dir))
            server = running.enter_context(serving(home, {"KALMAGROVE_KNOWLEDGE_URL": url}))
            targets.append(server.target)
        yield targets
