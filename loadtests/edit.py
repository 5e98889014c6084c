"""Edits of one fact, acknowledged = durable and visible: on an idle server and while it streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from loadtests.client import ServerClient, connect
from loadtests.corpus import rewritten
from loadtests.refusals import RequestError
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench, user

STREAMS = 4
STREAM_TOKENS = 256
START_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Stream:
    """One client that asks again as soon as it is answered."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    answers: list[list[float]] = field(default_factory=list)
    """Per answer, when its pieces of content came."""

    def on_content(self) -> None:
        self.answers[-1].append(time.perf_counter())
        self.started.set()

    async def run(self, client: ServerClient, bench: Bench, offset: int) -> None:
        while True:
            item = bench.corpus[offset % len(bench.corpus)]
            self.answers.append([])
            await client.ask(
                user(item.question),
                bench.knowledge,
                STREAM_TOKENS,
                to_the_end=True,
                on_content=self.on_content,
            )
            offset += STREAMS


async def run(options: Options, progress: Progress) -> Report:
    """Every edit writes a text never seen before, so its pages are made anew. Raises RequestError."""
    async with open_bench(options, progress) as bench:
        report = new_report("edit", bench)
        await bench.load(item.fact for item in bench.corpus)
        serial = await _edits(bench, report, "idle", 0)
        async with _streaming(bench) as streams:
            began = time.perf_counter()
            await _edits(bench, report, f"under {STREAMS} streams", serial)
            ended = time.perf_counter()
        _summarise_streams(report, streams, began, ended)
        return report


async def _edits(bench: Bench, report: Report, when: str, serial: int) -> int:
    """Returns the first serial number not used."""
    count = bench.options.count
    for item in bench.repeated(WARM_UP):
        await bench.edit(rewritten(item, serial))
        serial += 1
    waited: list[float] = []
    visible: list[float] = []
    for item in bench.in_time(f"edits, {when}", bench.repeated(count)):
        client_ms, server_ms = await bench.edit(rewritten(item, serial))
        waited.append(client_ms)
        visible.append(server_ms)
        serial += 1
    report.add_series(f"edit acknowledged, {when} (ms)", waited, count)
    report.add_series(f"visible_ms as reported, {when} (ms)", visible, count)
    return serial


@asynccontextmanager
async def _streaming(bench: Bench) -> AsyncIterator[list[_Stream]]:
    """Streams that have all begun; leaving cancels them. Raises RequestError if one of them failed."""
    streams = [_Stream() for _ in range(STREAMS)]
    async with connect(bench.options.target, connections=STREAMS) as client:
        tasks = [asyncio.create_task(s.run(client, bench, i)) for i, s in enumerate(streams)]
        try:
            await _all_started(streams, tasks)
            yield streams
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _all_started(streams: list[_Stream], tasks: list[asyncio.Task[None]]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all(stream.started.is_set() for stream in streams):
        for task in tasks:
            if task.done():
                task.result()
        if time.monotonic() > deadline:
            raise RequestError(f"{STREAMS} streams did not begin within {START_TIMEOUT_S:.0f} s")
        await asyncio.sleep(0.02)


def _summarise_streams(report: Report, streams: list[_Stream], began: float, ended: float) -> None:
    """What the streams felt of the edits, so that fast edits cannot be had by stalling the readers."""
    gaps: list[float] = []
    pieces = 0
    for answer in (answer for stream in streams for answer in stream.answers):
        times = [t for t in answer if began <= t <= ended]
        pieces += len(times)
        gaps += [(b - a) * 1e3 for a, b in pairwise(times)]
    report.add_series("gap between pieces of a stream meanwhile (ms)", gaps)
    report.figures["pieces streamed meanwhile, per second"] = pieces / (ended - began)
