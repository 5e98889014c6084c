"""Five times what the server takes: whoever is accepted is served in bounded time, the rest are refused at once.

What the server takes is measured first: how many requests it holds at once, and how many of them it answers per second
with so many clients. Requests then come at five times that rate, whether answered or not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loadtests.answer import Answer
from loadtests.client import ServerClient, connect
from loadtests.corpus import Item
from loadtests.refusals import Refused, RequestError
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench, user

FACTOR = 5.0
"""Requests offered, as a multiple of what the server answers."""
LEAST_FACTOR = 3.0
"""A load generator that falls behind this has shown nothing."""
BURST = 256
"""Requests sent at once to see how many the server holds."""
ANSWER_TOKENS = 16
FULL_SHARE = 1 / 3
"""How long the full server is measured, as a share of the overloaded one's time."""
HANG_S = 150.0
"""A request that has no end by then hangs; the server's own deadline is shorter."""
BOUND = 2.0
"""Accepted requests' p99 of the first token, overloaded against full."""

FULL = "TTFT, full (ms)"
OVERLOADED = "TTFT of accepted requests, overloaded (ms)"
REFUSED = "refused with 429 after (ms)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended: answered, refused, or something that should not be."""

    seconds: float
    answer: Answer | None = None
    refusal: Refused | None = None
    failure: str | None = None


async def run(options: Options, progress: Progress) -> Report:
    """Overloads the server for `max_seconds`. Raises RequestError if it cannot be measured at all."""
    async with open_bench(options, progress) as bench, connect(options.target, connections=4 * BURST) as client:
        report = new_report("overload", bench)
        await bench.load(item.fact for item in bench.corpus)
        load = _Load(client, bench)
        for item in bench.repeated(WARM_UP):
            await load.ask(item)
        places = await load.places()
        full, window = await load.closed(places, options.max_seconds * FULL_SHARE)
        capacity = sum(one.answer is not None for one in full) / window
        if not capacity:
            raise RequestError(f"{places} clients together got no answer: {_failures(full)}")
        overloaded = await load.open(capacity * FACTOR, options.max_seconds)
        after = await load.ask(bench.corpus[0])
        report.figures["requests held at once"] = places
        report.figures["answers per second, full"] = capacity
        summarise(report, full, overloaded, after)
        _check_factor(report, len(overloaded) / options.max_seconds / capacity)
        return report


class _Load:
    """Sends questions of the corpus, one after the other, and keeps how each ended."""

    def __init__(self, client: ServerClient, bench: Bench) -> None:
        self._client = client
        self._bench = bench
        self._random = random.Random(bench.options.seed)

    async def ask(self, item: Item) -> Outcome:
        started = time.perf_counter()
        answer: Answer | None = None
        refusal: Refused | None = None
        failure: str | None = None
        try:
            async with asyncio.timeout(HANG_S):
                answer = await self._client.ask(
                    user(item.question), self._bench.knowledge, ANSWER_TOKENS, to_the_end=True
                )
        except TimeoutError:
            failure = f"hung: no end after {HANG_S:.0f} s"
        except Refused as error:
            refusal = error
        except RequestError as error:
            failure = str(error)
        return Outcome(time.perf_counter() - started, answer, refusal, failure)

    def _any(self) -> Item:
        return self._random.choice(self._bench.corpus)

    async def places(self) -> int:
        """How many of a burst of requests the server takes; the others are refused."""
        self._bench.progress("finding how many requests it holds", 0, 1)
        outcomes = await asyncio.gather(*(self.ask(self._any()) for _ in range(BURST)))
        return max(1, sum(one.answer is not None for one in outcomes))

    async def closed(self, clients: int, seconds: float) -> tuple[list[Outcome], float]:
        """So many clients that ask again when they are answered: what ended in a window, and its length in seconds.

        It opens when every client has been answered once, so that the queue is as long as it will be; it is open for
        `seconds`, and until as many requests have ended as there are clients.
        """
        ended: asyncio.Queue[Outcome] = asyncio.Queue()
        ramps: list[asyncio.Event] = [asyncio.Event() for _ in range(clients)]

        async def client(ramp: asyncio.Event) -> None:
            while True:
                outcome = await self.ask(self._any())
                ended.put_nowait(outcome)
                ramp.set()
                if outcome.answer is None:
                    await asyncio.sleep(0.1)  # refused: its place is taken; the next try need not be the next instant

        async with _ticking(self._bench, f"full: {clients} clients", seconds):
            tasks = [asyncio.create_task(client(ramp)) for ramp in ramps]
            try:
                await asyncio.gather(*(ramp.wait() for ramp in ramps))
                while not ended.empty():
                    ended.get_nowait()
                outcomes: list[Outcome] = []
                started = time.monotonic()
                while time.monotonic() < started + seconds or len(outcomes) < clients:
                    outcomes.append(await ended.get())
                return outcomes, time.monotonic() - started
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def open(self, rate: float, seconds: float) -> list[Outcome]:
        """Requests at random moments, so many per second on average, answered or not. Waits for the last one's end."""
        tasks: list[asyncio.Task[Outcome]] = []
        start = time.monotonic()
        due = 0.0
        async with _ticking(self._bench, f"overloaded: {rate:.0f} requests per second", seconds):
            while (due := due + self._random.expovariate(rate)) < seconds:
                # Late ones are sent at once, so the rate is kept; the event loop gets its turn in any case.
                await asyncio.sleep(max(0.0, start + due - time.monotonic()))
                if time.monotonic() > start + seconds:
                    break
                tasks.append(asyncio.create_task(self.ask(self._any())))
            return list(await asyncio.gather(*tasks))


@asynccontextmanager
async def _ticking(bench: Bench, what: str, seconds: float) -> AsyncIterator[None]:
    """Reports progress by the clock."""

    async def tick() -> None:
        for second in range(int(seconds) + 1):
            bench.progress(what, second, int(seconds) + 1)
            await asyncio.sleep(1)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def summarise(report: Report, full: Sequence[Outcome], overloaded: Sequence[Outcome], after: Outcome) -> None:
    """Figures and verdicts."""
    answers = [one.answer for one in overloaded if one.answer]
    refused = [one for one in overloaded if one.refusal]
    report.add_series(FULL, [one.answer.ttft * 1e3 for one in full if one.answer])
    report.add_series(OVERLOADED, [answer.ttft * 1e3 for answer in answers])
    report.add_series(REFUSED, [one.seconds * 1e3 for one in refused])
    report.figures["requests sent, overloaded"] = len(overloaded)
    report.figures["of them refused, %"] = 100 * len(refused) / max(1, len(overloaded))
    if FULL in report.series and OVERLOADED in report.series:
        ratio = report.series[OVERLOADED].p99 / report.series[FULL].p99
        report.figures["p99 of the first token, overloaded / full"] = ratio
        if ratio > BOUND:
            report.failures.append(f"p99 of the first token is {ratio:.1f} times that of the full server, not {BOUND}")
    silent = sum(one.refusal.retry_after is None for one in refused if one.refusal)
    if silent:
        report.failures.append(f"{silent} refusals without Retry-After")
    if failed := _failures([*full, *overloaded, after]):
        report.failures.append(failed)
    if after.answer:
        report.figures["TTFT afterwards (ms)"] = after.answer.ttft * 1e3
    elif after.refusal:
        report.failures.append("still refused when the load was over")


def _check_factor(report: Report, factor: float) -> None:
    report.figures["requests offered / answered by a full server"] = factor
    if factor < LEAST_FACTOR:
        report.failures.append(f"the load was only {factor:.1f} times what the server takes")


def _failures(outcomes: Sequence[Outcome]) -> str:
    """The most frequent one with its number; empty if there are none."""
    failures = Counter(one.failure for one in outcomes if one.failure)
    if not failures:
        return ""
    reason, count = failures.most_common(1)[0]
    return f"{failures.total()} requests failed; {count} of them: {reason}"
