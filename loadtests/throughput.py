"""Throughput: many concurrent streams against one, and whether any of them starves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass

from loadtests.answer import Answer
from loadtests.corpus import Item
from loadtests.refusals import RequestError
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench, user

STREAMS = 16
STREAM_TOKENS = 64
SINGLE_SHARE = 4
"""One answer in this many is also taken alone, for the comparison."""


@dataclass(frozen=True, slots=True)
class _Wave:
    """Streams started together, and the seconds until the last of them ended."""

    answers: list[Answer]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return sum(answer.completion_tokens for answer in self.answers) / self.seconds


async def run(options: Options, progress: Progress) -> Report:
    """`count` is the number of answers streamed in waves of 16. Raises RequestError."""
    async with open_bench(options, progress, connections=STREAMS) as bench:
        report = new_report("throughput", bench)
        await bench.load(item.fact for item in bench.corpus)
        await _wave(bench, bench.repeated(WARM_UP))
        single, many = _plan(bench.repeated(options.count))
        alone = [await _wave(bench, items) for items in bench.in_time("one stream", single)]
        waves = [await _wave(bench, items) for items in bench.in_time(f"{STREAMS} streams", many)]
        _summarise(report, "1 stream", alone, len(single))
        _summarise(report, f"{STREAMS} streams", waves, len(many))
        report.ratio(
            f"aggregate throughput, {STREAMS} streams / 1",
            f"tokens per second, {STREAMS} streams",
            "tokens per second, 1 stream",
        )
        return report


def _plan(items: list[Item]) -> tuple[list[list[Item]], list[list[Item]]]:
    """(waves of one, waves of STREAMS); the last wave is filled up from the start."""
    waves = [items[start : start + STREAMS] for start in range(0, len(items), STREAMS)]
    waves[-1] += [items[i % len(items)] for i in range(STREAMS - len(waves[-1]))]
    return [[item] for item in items[::SINGLE_SHARE]], waves


async def _wave(bench: Bench, items: list[Item]) -> _Wave:
    def ask(item: Item) -> Coroutine[None, None, Answer]:
        return bench.client.ask(user(item.question), bench.knowledge, STREAM_TOKENS, to_the_end=True)

    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(item)) for item in items]
    except* RequestError as failed:
        raise failed.exceptions[0] from None
    return _Wave([task.result() for task in tasks], time.perf_counter() - started)


def _summarise(report: Report, name: str, waves: list[_Wave], wanted: int) -> None:
    answers = [answer for wave in waves for answer in wave.answers]
    report.add_series(f"tokens per second, {name}", [wave.tokens_per_second for wave in waves], wanted)
    report.add_series(f"TTFT, {name} (ms)", [answer.ttft * 1e3 for answer in answers])
    report.add_series(f"gap between pieces, {name} (ms)", [gap * 1e3 for answer in answers for gap in answer.gaps])
