"""Time to first token with more facts than the cache of pages holds, each asked as often as any other.

A question whose facts nobody has asked for yet is cold: their pages are on disk, or not made, as chance will have it.
The same question again at once is warm. Which of the two it was is told by how it was asked, not by the server.
"""

from __future__ import annotations

import asyncio
import random
import time

from loadtests.client import at_rest
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench, user

ANSWER_TOKENS = 4
IMPORT_BATCH = 1000
"""Facts of one batch: an import, whose pages are made in the background."""


async def run(pages_seconds: float, options: Options, progress: Progress) -> Report:
    """Pages are made for `pages_seconds` at most before the first question. Raises RequestError."""
    async with open_bench(options, progress) as bench:
        report = new_report("cold", bench)
        await _load(bench, report)
        try:
            async with asyncio.timeout(pages_seconds):
                await at_rest(bench.client)
        except TimeoutError:
            pass
        report.figures["facts whose pages are made before the first question, share"] = await bench.client.pages_made()
        await _ask(bench, report)
        return report


async def _load(bench: Bench, report: Report) -> None:
    facts = [item.fact for item in bench.corpus]
    began = time.perf_counter()
    loaded = 0
    for start in bench.in_time("loading facts", range(0, len(facts), IMPORT_BATCH)):
        some = facts[start : start + IMPORT_BATCH]
        await bench.client.put_facts(some, bench.namespace, bench.expires_at)
        loaded += len(some)
    report.figures["facts"] = loaded
    report.figures["loaded over HTTP (facts/s)"] = loaded / (time.perf_counter() - began)
    if loaded < len(facts):
        report.failures.append(f"{loaded} of {len(facts)} facts were loaded before the time was over")


async def _ask(bench: Bench, report: Report) -> None:
    wanted = bench.options.count
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    right = 0
    # None twice: its facts would be warm.
    asked = random.Random(bench.options.seed).sample(bench.corpus, min(wanted + WARM_UP, len(bench.corpus)))
    for turn, item in enumerate(bench.in_time("questions", asked)):
        for kind, series in times.items():
            answer = await bench.client.ask(user(item.question), _mounting(bench), ANSWER_TOKENS, to_the_end=True)
            if turn >= WARM_UP:
                series.append(answer.ttft * 1e3)
                right += kind == "warm" and item.fact.id in {fact.id for fact in answer.facts}
    for kind, series in times.items():
        report.add_series(f"TTFT, {kind} (ms)", series, min(wanted, len(asked) - WARM_UP))
    if times["warm"]:
        report.figures["questions whose fact is mounted, warm, share"] = right / len(times["warm"])


def _mounting(bench: Bench) -> dict[str, object]:
    """As a client asks that says no more than which knowledge is meant."""
    return {"namespace": bench.namespace}
