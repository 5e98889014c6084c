"""Asks every system the same questions, in turn: one works at a time, and all see the same machine.

Of each question a system is asked three things: 64 tokens, whatever it says (times); the same again until it ends by
itself (is it right?); another question over the same facts (what its prefix cache is worth). Between the questions,
some are asked together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from loadtests.client import connect
from loadtests.peers.summary import Record, summarise
from loadtests.peers.systems import Asked, Case, System, find_cases
from loadtests.report import Report
from loadtests.scenario import Bench, Options, Progress, new_report, open_bench

STREAMS = (4, 16)
WARM_UP = 3
"""Questions to every system before the clock counts."""
AGAIN_TOKENS = 2
TIMEOUT_S = 600.0


async def run(options: Options, systems: Sequence[System], waves: int, progress: Progress) -> Report:
    """`count` questions one by one, and `waves` times 4 and 16 together. Raises RequestError.

    systems     the first one is KalmaGrove with facts mounted, at `options.target`; the others are compared with it
    """
    async with open_bench(options, progress) as bench, AsyncExitStack() as stack:
        report = new_report("peers", bench)
        report.notes = {system.name: system.about for system in systems}
        await bench.load(item.fact for item in bench.corpus)
        cases = await find_cases(bench, WARM_UP + options.count + waves * sum(STREAMS))
        asked = []
        for system in systems:
            connection = connect(system.target, connections=max(STREAMS), timeout_s=TIMEOUT_S)
            mounting = {"namespace": bench.namespace} if system.way == "ships" else bench.knowledge
            asked.append(Asked(system, await stack.enter_async_context(connection), mounting))
        records = await _measure(bench, asked, cases, waves)
        for one in asked:
            report.notes[one.system.name] += _told(one.broken)
        summarise(report, records, cases[WARM_UP:], options.count, waves)
        return report


async def _measure(bench: Bench, asked: list[Asked], cases: list[Case], waves: int) -> dict[str, Record]:
    """By system. `cases`: those of the warm-up, of the questions, of the waves."""
    for case in cases[:WARM_UP]:
        for one in asked:
            await _question(one, case, Record())
    records = {one.system.name: Record() for one in asked}
    steps = plan(cases[WARM_UP:], bench.options.count, waves)
    for turn, step in bench.in_time("questions, one by one and together", list(enumerate(steps))):
        first = turn % len(asked)
        for one in asked[first:] + asked[:first]:
            record = records[one.system.name]
            if len(step) == 1:
                await _question(one, step[0], record)
            else:
                record.rates.setdefault(len(step), []).append(await one.ask_together(step))
            await asyncio.sleep(one.system.settle_s)
    return records


def plan(cases: Sequence[Case], count: int, waves: int) -> list[list[Case]]:
    """Single questions with waves among them, evenly; no case comes twice."""
    single, rest = list(cases[:count]), iter(cases[count:])
    steps: list[list[Case]] = []
    for wave in range(waves):
        steps += [[case] for case in single[wave * count // waves : (wave + 1) * count // waves]]
        steps += [[next(rest) for _ in range(streams)] for streams in STREAMS]
    return steps if waves else [[case] for case in single]


async def _question(one: Asked, case: Case, record: Record) -> None:
    record.fresh.append(await one.ask(case, to_the_end=True))
    record.right.append(case.item.answer in (await one.ask(case)).text)
    record.again.append(await one.ask(case, again=True, tokens=AGAIN_TOKENS, to_the_end=True))


def _told(broken: Sequence[str]) -> str:
    return f" ({len(broken)} times a request was broken off and sent again; first: {broken[0]})" if broken else ""
