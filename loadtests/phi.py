"""What φ costs: time to first token of two servers that differ in nothing but φ."""

from __future__ import annotations

import statistics
from dataclasses import replace

from loadtests.answer import Answer
from loadtests.client import Target
from loadtests.corpus import Item
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench
from loadtests.ttft import ask_mounted, require_mounted

WITH = "TTFT with φ (ms)"
WITHOUT = "TTFT without φ (ms)"


async def run(options: Options, plain: Target, progress: Progress) -> Report:
    """Asks both servers every question, in turn first one and then the other first. Raises RequestError.

    plain   the server without φ; `options.target` has it
    """
    async with open_bench(options, progress) as bench, open_bench(replace(options, target=plain), progress) as other:
        report = new_report("phi", bench)
        for one in (bench, other):
            await one.load(item.fact for item in one.corpus)
        for item in bench.repeated(WARM_UP):
            await _pair(bench, other, item, swap=False)
        items = list(enumerate(bench.repeated(options.count)))
        pairs = [
            await _pair(bench, other, item, swap=bool(turn % 2)) for turn, item in bench.in_time("questions", items)
        ]
        require_mounted(report, [answer for pair in pairs for answer in pair])
        report.add_series(WITH, [ours.ttft * 1e3 for ours, _ in pairs], options.count)
        report.add_series(WITHOUT, [theirs.ttft * 1e3 for _, theirs in pairs], options.count)
        report.ratio("TTFT ratio of medians, with / without", WITH, WITHOUT)
        if pairs:
            ratios = [ours.ttft / theirs.ttft for ours, theirs in pairs]
            report.figures["median of the ratios, question by question"] = statistics.median(ratios)
        return report


async def _pair(bench: Bench, other: Bench, item: Item, *, swap: bool) -> tuple[Answer, Answer]:
    """The answers of both to the same question: `bench`'s, then `other`'s."""
    if swap:
        theirs = await ask_mounted(other, item)
        return await ask_mounted(bench, item), theirs
    return await ask_mounted(bench, item), await ask_mounted(other, item)
