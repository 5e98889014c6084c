"""A mixed load for a long time: memory, pages, file handles and threads must not grow.

Chats, streams, edits and clients that leave, all at once, each one after the other without a pause but for the edits,
or with one that the options name.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from loadtests.client import ServerClient, connect
from loadtests.corpus import Item, rewritten
from loadtests.refusals import RequestError
from loadtests.report import Report
from loadtests.resources import HANDLES, PAGES, RSS, THREADS, Samples, held_by_requests, slope
from loadtests.scenario import Bench, Options, Progress, new_report, open_bench, user

WORKERS = {"chat": 2, "stream": 2, "edit": 1, "leave": 2}
"""How many clients of each kind."""
ANSWER_TOKENS = 32
EDIT_PAUSE_S = 0.2
SERIALS = range(10**8, 10**9)
"""Of the edits' texts, all equally long."""
SETTLING_SHARE = 0.25
"""Of the time, before growth counts: caches fill, threads are started."""
MOST_SAMPLES = 180
IDLE_TIMEOUT_S = 30.0
TOLERATED = {RSS: 16.0, PAGES: 64.0, HANDLES: 8.0, THREADS: 4.0}
"""Growth over the run that is none. A leak is told if even the least slope of the interval would come to more."""


@dataclass(slots=True)
class _Work:
    """What was done, by kind: seconds of each success, and why others failed."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)


async def run(options: Options, progress: Progress) -> Report:
    """Loads the server for `max_seconds`. Raises RequestError."""
    connections = sum(WORKERS.values())
    async with open_bench(options, progress) as bench, connect(options.target, connections=connections) as client:
        report = new_report("soak", bench)
        # As long from the start as edits make them: a base that still grows would look like a leak.
        await bench.load(rewritten(item, SERIALS[0]) for item in bench.corpus)
        work, samples = _Work(), Samples()
        tasks = [
            asyncio.create_task(_worker(kind, _deeds(client, bench)[kind], bench, work, seed))
            for kind, count in WORKERS.items()
            for seed in range(count)
        ]
        try:
            await _sample(bench, samples, options)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        _summarise_work(report, work)
        summarise_growth(report, samples)
        await _check_idle(report, bench.client)
        return report


async def _worker(
    kind: str, deed: Callable[[Item, random.Random], Awaitable[None]], bench: Bench, work: _Work, seed: int
) -> None:
    """Again and again until cancelled."""
    draw = random.Random(f"{bench.options.seed} {kind} {seed}")
    while True:
        started = time.perf_counter()
        try:
            await deed(draw.choice(bench.corpus), draw)
            work.seconds[kind].append(time.perf_counter() - started)
        except RequestError as error:
            work.failures[f"{kind}: {error}"] += 1
            await asyncio.sleep(EDIT_PAUSE_S)
        await asyncio.sleep(bench.options.pause)


def _deeds(client: ServerClient, bench: Bench) -> dict[str, Callable[[Item, random.Random], Awaitable[None]]]:
    async def chat(item: Item, draw: random.Random) -> None:
        await client.ask_whole(user(item.question), bench.knowledge, ANSWER_TOKENS)

    async def stream(item: Item, draw: random.Random) -> None:
        await client.ask(user(item.question), bench.knowledge, ANSWER_TOKENS, to_the_end=True)

    async def edit(item: Item, draw: random.Random) -> None:
        await client.put_facts([rewritten(item, draw.choice(SERIALS))], bench.namespace, bench.expires_at)
        await asyncio.sleep(EDIT_PAUSE_S)

    async def leave(item: Item, draw: random.Random) -> None:
        await client.ask_and_leave(user(item.question), bench.knowledge, ANSWER_TOKENS, draw.randrange(4))

    return {"chat": chat, "stream": stream, "edit": edit, "leave": leave}


async def _sample(bench: Bench, samples: Samples, options: Options) -> None:
    """Until the time is over."""
    interval = max(0.1, options.max_seconds / MOST_SAMPLES)
    start = time.monotonic()
    while (passed := time.monotonic() - start) < options.max_seconds:
        bench.progress("mixed load", int(passed), int(options.max_seconds) + 1)
        await samples.take(bench.client, options.target.pid)
        await asyncio.sleep(interval)


def _summarise_work(report: Report, work: _Work) -> None:
    for kind in WORKERS:
        report.add_series(f"{kind} (ms)", [seconds * 1e3 for seconds in work.seconds[kind]])
    if work.failures:
        reason, count = work.failures.most_common(1)[0]
        report.failures.append(f"{work.failures.total()} requests failed; {count} of them: {reason}")


def summarise_growth(report: Report, samples: Samples) -> None:
    """Slopes per hour of what was sampled, once settled, and whether any is a leak."""
    settled = samples.settled(SETTLING_SHARE)
    report.samples["seconds"] = samples.seconds
    for name, tolerated in TOLERATED.items():
        if name not in samples.values:
            continue
        report.samples[name] = samples.values[name]
        report.add_series(name, settled.values[name])
        growth = slope(settled.seconds, settled.values[name])
        if growth is None:
            report.failures.append(f"{name}: too few samples for a slope")
            continue
        report.figures[f"{name} per hour"] = growth.per_hour
        report.figures[f"{name} per hour, 95 %: from"] = growth.low
        report.figures[f"{name} per hour, 95 %: to"] = growth.high
        hours = (settled.seconds[-1] - settled.seconds[0]) / 3600
        if growth.low * hours > tolerated:
            report.failures.append(f"{name}: grew by at least {growth.low * hours:.1f} in {hours * 60:.0f} min")


async def _check_idle(report: Report, client: ServerClient) -> None:
    """Whatever requests held is given back when they are over."""
    deadline = time.monotonic() + IDLE_TIMEOUT_S
    while any((held := held_by_requests(await client.metrics())).values()):
        if time.monotonic() > deadline:
            kept = ", ".join(f"{name} {value:.0f}" for name, value in held.items() if value)
            report.failures.append(f"held when the load was over: {kept}")
            return
        await asyncio.sleep(0.2)
