"""What all scenarios share: their options, their clock and the knowledge they load."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from loadtests.client import FactRecord, ServerClient, Target, connect, load_facts
from loadtests.corpus import Item, make_corpus
from loadtests.report import Report

Progress = Callable[[str, int, int], None]
"""(what is being done, done, of how many)"""

WARM_UP = 5
"""Requests sent and forgotten before the clock counts."""

LEFTOVERS_S = 4 * 3600
"""Facts that a load test leaves behind expire by themselves after this time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure: `count` bounds the measurements of a series, `max_seconds` the time of the run.

    Overload and soak go by the time alone: `max_seconds` is how long the load lasts.
    """

    target: Target
    count: int
    facts: int = 1000
    seed: int = 1
    max_seconds: float = 900.0
    pause: float = 0.0
    """Seconds that each client of soak waits before its next request."""


@dataclass(slots=True)
class Bench:
    """A scenario at work: a client, a namespace of its own full of facts, and a deadline."""

    client: ServerClient
    options: Options
    progress: Progress
    corpus: list[Item]
    deadline: float
    namespace: str = field(default_factory=lambda: f"loadtest-{secrets.token_hex(4)}")
    expires_at: float = field(default_factory=lambda: time.time() + LEFTOVERS_S)

    @property
    def knowledge(self) -> dict[str, object]:
        """The request field that mounts 8 facts, however little they have to do with the question."""
        return {"namespace": self.namespace, "top_k": 8, "min_score": -1.0, "max_gap": 4.0}

    def in_time(self, what: str, items: Sequence[T]) -> Iterator[T]:
        """The items one by one, as long as there is time; reports progress."""
        for done, item in enumerate(items):
            if time.monotonic() > self.deadline:
                return
            yield item
            self.progress(what, done + 1, len(items))

    def repeated(self, count: int) -> list[Item]:
        """`count` items of the corpus, from its start again when it is used up."""
        return [self.corpus[i % len(self.corpus)] for i in range(count)]

    async def load(self, facts: Iterable[FactRecord]) -> None:
        self.progress("loading facts", 0, 1)
        await load_facts(self.client, list(facts), self.namespace, self.expires_at)
        self.progress("loading facts", 1, 1)

    async def edit(self, fact: FactRecord) -> tuple[float, float]:
        """One edit: (milliseconds until it was acknowledged, milliseconds the server says it took)."""
        edit = await self.client.put_facts([fact], self.namespace, self.expires_at)
        return edit.seconds * 1e3, edit.visible_ms


@asynccontextmanager
async def open_bench(options: Options, progress: Progress, *, connections: int = 1) -> AsyncIterator[Bench]:
    """Connect and make the corpus; nothing is written yet. Raises RequestError."""
    async with connect(options.target, connections=connections) as client:
        deadline = time.monotonic() + options.max_seconds
        yield Bench(client, options, progress, make_corpus(options.facts, options.seed), deadline)


def new_report(scenario: str, bench: Bench) -> Report:
    return Report(scenario, bench.client.model, bench.options.target.url)


def user(question: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    return [{"role": "user", "content": question}]
