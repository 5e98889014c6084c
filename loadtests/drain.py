"""SIGTERM under load: whoever was let in is answered whole, the rest are told to go, and no acknowledged edit is lost.

Streams, plain requests and edits, each client one after the other without a pause. In their midst the server is told to
end; the clients go on until its process is gone. Then it is started on the same store, which must hold every edit that
was acknowledged. Again for every round. Where /admin has a listener of its own, edits go there, and more streams, as
from the console.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from loadtests.client import FactRecord
from loadtests.corpus import Item, make_corpus
from loadtests.exchange import DONE, Exchange, exchange
from loadtests.report import Report
from loadtests.scenario import Bench, Options, Progress, new_report, open_bench, user
from loadtests.serving import Server, serving, temporary_home

CLIENTS = {"stream": 8, "plain": 4, "edit": 2}
"""How many of each kind; together no more than the server runs at once."""
CLIENTS_APART = {**CLIENTS, "console": 2}
"""The same with a listener of its own for /admin."""
STREAMED, ON_ADMIN = frozenset({"stream", "console"}), frozenset({"edit", "console"})
"""Kinds that stream, and kinds that ask where /admin is."""
STREAM_TOKENS = 32
PLAIN_TOKENS = 16
REFUSED_PAUSE_S = 0.05
"""How long a client that was refused waits before it tries again, on a new connection."""
REQUEST_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 60.0
"""A server that takes longer is killed, and the round is a failure; its own bound is shorter."""
ASKED, EDITED = "drain-asked", "drain-edited"
"""Namespaces of the facts that questions are about, and of those that are written under load."""
PAGE = 100
"""Facts asked for at once."""
EXIT = "SIGTERM to exit (ms)"
REFUSED = "refused with 503 after (ms)"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and its end. Times are those of time.monotonic()."""

    kind: str
    sent_at: float
    ended_at: float
    came: Exchange
    fact: FactRecord | None = None
    """What an edit writes."""

    @property
    def accepted(self) -> bool:
        """An answer began, and it is no refusal."""
        return self.came.status == httpx.codes.OK

    @property
    def whole(self) -> bool:
        """Accepted and answered to the end."""
        if not self.accepted or self.came.failure:
            return False
        return self.kind not in STREAMED or (self.came.body.endswith(DONE) and b'"error"' not in self.came.body)

    @property
    def refused(self) -> bool:
        """Told to go, and when to come again."""
        refusals = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS)
        return self.came.status in refusals and self.came.retry_after is not None and not self.came.failure


@dataclass(slots=True)
class Round:
    """One life of a server under load, and what its successor found."""

    terminated_at: float
    exited_at: float
    exit_status: int | None
    """None: it had to be killed."""
    attempts: list[Attempt]
    missing: list[str] = field(default_factory=list)
    """Ids of acknowledged facts that the store does not hold afterwards."""

    @property
    def acknowledged(self) -> dict[str, str]:
        """Texts by id."""
        return {one.fact.id: one.fact.text for one in self.attempts if one.fact and one.whole}


async def run(options: Options, data_dir: Path, progress: Progress, *, admin_apart: bool = False) -> Report:
    """`count` rounds with about `max_seconds` of load before each SIGTERM. Raises RequestError, ServerStartError.

    admin_apart     /admin has a listener of its own, and both are under load
    """
    rounds: list[Round] = []
    report: Report | None = None
    draw = random.Random(options.seed)
    with temporary_home(data_dir) as home:
        for number in range(options.count + 1):
            progress("rounds", number, options.count + 1)
            with serving(home, admin_apart=admin_apart) as server:
                async with open_bench(replace(options, target=server.target), progress) as bench:
                    bench.namespace = ASKED  # the same in every life of the server
                    report = report or new_report("drain", bench)
                    if rounds:
                        rounds[-1].missing = missing(rounds[-1].acknowledged, await _held(bench))
                    else:
                        await bench.load(item.fact for item in bench.corpus)
                    if number < options.count:
                        seconds = options.max_seconds * draw.uniform(0.75, 1.25)  # not always in the same moment
                        rounds.append(await _round(bench, server, number, seconds))
    assert report is not None
    summarise(report, rounds)
    return report


async def _round(bench: Bench, server: Server, number: int, seconds: float) -> Round:
    gone = asyncio.Event()
    attempts: list[Attempt] = []
    target = server.target
    async with _connections(target.url) as public, _connections(target.admin_url or target.url) as admin:
        clients = [
            asyncio.create_task(
                _client(
                    admin if kind in ON_ADMIN else public,
                    _Requests(bench, kind, f"{number}-{kind}-{one}"),
                    gone,
                    attempts,
                )
            )
            for kind, count in (CLIENTS_APART if target.admin_url else CLIENTS).items()
            for one in range(count)
        ]
        await asyncio.sleep(seconds)
        terminated_at = time.monotonic()
        server.terminate()
        status = await _exit(server)
        exited_at = time.monotonic()
        gone.set()
        await asyncio.gather(*clients)
    return Round(terminated_at, exited_at, status, attempts)


def _connections(url: str) -> httpx.AsyncClient:
    """As many as there are clients."""
    most = sum(CLIENTS_APART.values())
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=REQUEST_TIMEOUT_S, trust_env=False)


async def _exit(server: Server) -> int | None:
    """Its exit status; None if it had to be killed."""
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while (status := server.process.poll()) is None:
        if time.monotonic() > deadline:
            server.process.kill()
            return None
        await asyncio.sleep(0.005)
    return status


class _Requests:
    """What one client asks for, request by request."""

    def __init__(self, bench: Bench, kind: str, name: str) -> None:
        self.kind = kind
        self._bench = bench
        self._name = name
        self._draw = random.Random(f"{bench.options.seed} {name}")
        self._corpus: Sequence[Item] = make_corpus(bench.options.facts, bench.options.seed)
        self._serial = 0

    def next(self) -> tuple[str, str, object, FactRecord | None]:
        """Method, path, body, and the fact that is written, if one is. An edit writes a fact that was not there yet."""
        item = self._draw.choice(self._corpus)
        if self.kind != "edit":
            return "POST", "/v1/chat/completions", self._question(item), None
        self._serial += 1
        fact = FactRecord(f"{self._name}-{self._serial}", f"{item.fact.text} This is note {self._name}-{self._serial}.")
        row = {"id": fact.id, "text": fact.text, "namespace": EDITED, "expires_at": self._bench.expires_at}
        return "PUT", "/admin/kb/facts", {"facts": [row]}, fact

    def _question(self, item: Item) -> Mapping[str, object]:
        streamed = self.kind in STREAMED
        return {
            "model": self._bench.client.model,
            "messages": user(item.question),
            "knowledge": self._bench.knowledge,
            "max_tokens": STREAM_TOKENS if streamed else PLAIN_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": streamed,
        }


async def _client(http: httpx.AsyncClient, requests: _Requests, gone: asyncio.Event, attempts: list[Attempt]) -> None:
    """One request after the other until the server is gone."""
    while not gone.is_set():
        method, path, body, fact = requests.next()
        sent_at = time.monotonic()
        came = await exchange(http, method, path, body)
        attempts.append(Attempt(requests.kind, sent_at, time.monotonic(), came, fact))
        if came.status != httpx.codes.OK:
            await asyncio.sleep(REFUSED_PAUSE_S)


async def _held(bench: Bench) -> dict[str, str]:
    """Texts by id of all facts that were written under load. Raises RequestError."""
    held: dict[str, str] = {}
    cursor: str | None = None
    while True:
        params = {"namespace": EDITED, "limit": str(PAGE), **({"cursor": cursor} if cursor else {})}
        page = await bench.client.json("GET", "/admin/kb/facts", params=params)
        held |= {str(fact["id"]): str(fact["text"]) for fact in page["facts"]}
        cursor = page.get("next_cursor")
        if not cursor:
            return held


def missing(acknowledged: Mapping[str, str], held: Mapping[str, str]) -> list[str]:
    """Ids of facts that are not held with the text that was acknowledged."""
    return [id for id, text in acknowledged.items() if held.get(id) != text]


def summarise(report: Report, rounds: Sequence[Round]) -> None:
    """Figures and verdicts. Requests that were sent when the process was gone are nobody's."""
    told = [one for each in rounds for one in each.attempts if one.sent_at < each.exited_at]
    late = [one for each in rounds for one in each.attempts if each.terminated_at <= one.sent_at < each.exited_at]
    early = [one for each in rounds for one in each.attempts if one.sent_at < each.terminated_at]
    running = [one for each in rounds for one in each.attempts if one.sent_at < each.terminated_at < one.ended_at]
    on_admin = [one for one in running if one.kind in ON_ADMIN]
    accepted = [one for one in told if one.accepted]
    report.add_series(EXIT, [(each.exited_at - each.terminated_at) * 1e3 for each in rounds])
    report.add_series(REFUSED, [(one.ended_at - one.sent_at) * 1e3 for one in late if one.refused])
    figures = {
        "rounds": len(rounds),
        "requests sent": len(told),
        "under way at SIGTERM": len(running),
        "of them where /admin is": len(on_admin),
        "accepted": len(accepted),
        "of them answered whole": sum(one.whole for one in accepted),
        "sent after SIGTERM": len(late),
        "of them answered whole, after SIGTERM": sum(one.whole for one in late),
        "of them refused with Retry-After": sum(one.refused for one in late),
        "of them not connected": sum(one.came.not_connected for one in late),
        "of them connected and without an answer": sum(one.came.unanswered for one in late),
        "edits acknowledged": sum(len(each.acknowledged) for each in rounds),
        "of them not in the store after a restart": sum(len(each.missing) for each in rounds),
    }
    report.figures.update(figures)
    _judge(report, rounds, [one for one in accepted if not one.whole], early, told)
    apart = any(one.kind not in CLIENTS for one in told)
    if not running or (apart and (not on_admin or len(on_admin) == len(running))):
        report.failures.append("nothing was under way at SIGTERM, or on one listener only: this shows nothing")


def _judge(
    report: Report, rounds: Sequence[Round], lost: Sequence[Attempt], early: Sequence[Attempt], told: Sequence[Attempt]
) -> None:
    """Whatever must not be."""
    silent = [one for one in early if one.came.unanswered or one.came.not_connected]
    odd = [one for one in told if one.came.status is not None and not one.accepted and not one.refused]
    for what, found in (
        ("accepted and not answered whole", lost),
        ("sent before SIGTERM and not answered", silent),
        ("refused, but not by 503 or 429 with Retry-After", odd),
    ):
        report.figures[what] = len(found)
        if found:
            ((reason, _),) = Counter(_reason(one) for one in found).most_common(1)
            report.failures.append(f"{len(found)} {what}; the most frequent: {reason}")
    if gone := [id for each in rounds for id in each.missing]:
        report.failures.append(f"{len(gone)} acknowledged edits are lost; the first: {gone[0]}")
    if wrong := [each.exit_status for each in rounds if each.exit_status != 0]:
        report.failures.append(f"{len(wrong)} exits were not clean; the first: {wrong[0]}")


def _reason(one: Attempt) -> str:
    if one.came.failure:
        return f"{one.kind}: {one.came.failure}"
    try:
        told = json.loads(one.came.body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        told = one.came.body[-200:].decode("utf-8", "replace")
    return f"{one.kind}: {one.came.status} {told}"
