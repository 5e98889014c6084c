"""A system of the comparison, and how it is asked: with facts mounted, or with the same facts in the prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loadtests.answer import Answer
from loadtests.client import FactRecord, ServerClient, Target
from loadtests.corpus import Item, pasted
from loadtests.refusals import RequestError
from loadtests.scenario import Bench, user

ANSWER_TOKENS = 64
"""Of every answer that is timed; the most of one that may end by itself."""
FACTS = 8
"""In context: the one that answers and seven others."""
ATTEMPTS = 3
"""At a request that another server breaks off. It is counted, and its time is that of the attempt that was answered."""


@dataclass(frozen=True, slots=True)
class System:
    """KalmaGrove's ways: all facts `mounted`; as it `ships`, mounting what the question needs of them; all `pasted`.

    A `plain` server knows nothing of facts.
    """

    name: str
    target: Target
    way: Literal["mounted", "ships", "pasted", "plain"] = "plain"
    about: str = ""
    """What it is, for the report."""
    settle_s: float = 0.1
    """How long its threads may stay awake after an answer: the next one is not asked before."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question, the facts found for it, and another question that one of the same facts answers."""

    item: Item
    facts: tuple[FactRecord, ...]
    """Best first."""
    again: Item


async def find_cases(bench: Bench, wanted: int) -> list[Case]:
    """Cases whose facts have the right one among them. Raises RequestError if the corpus has too few."""
    by_id = {item.fact.id: item for item in bench.corpus}
    cases: list[Case] = []
    for item in bench.corpus:
        if len(cases) == wanted:
            break
        found = [by_id[name] for name in await bench.client.search(item.question, bench.knowledge)]
        others = [one for one in found if one is not item]
        if len(found) == FACTS and len(others) < len(found):
            cases.append(Case(item, tuple(one.fact for one in found), others[0]))
        bench.progress("finding facts", len(cases), wanted)
    if len(cases) < wanted:
        raise RequestError(f"{wanted} questions are needed, and {len(bench.corpus)} facts give {len(cases)}")
    return cases


@dataclass(frozen=True, slots=True)
class Asked:
    """A system with a client of its own."""

    system: System
    client: ServerClient
    mounting: Mapping[str, object]
    """The request field that mounts facts."""
    broken: list[str] = field(default_factory=list)
    """Why requests were broken off, and then sent again."""

    async def ask(
        self, case: Case, *, again: bool = False, tokens: int = ANSWER_TOKENS, to_the_end: bool = False
    ) -> Answer:
        """The case's question, or the other one (`again`). Raises RequestError, which names the system."""
        question = user((case.again if again else case.item).question)
        knowledge: Mapping[str, object] | None = self.mounting
        if self.system.way in ("pasted", "plain"):
            texts = [fact.text for fact in case.facts]
            question = [{"role": "system", "content": pasted(texts)}, *question]
            knowledge = {"enabled": False} if self.system.way == "pasted" else None
        left = ATTEMPTS if self.system.way == "plain" else 1
        while True:
            left -= 1
            try:
                return await self.client.ask(question, knowledge, tokens, to_the_end=to_the_end)
            except RequestError as error:
                if not left:
                    raise RequestError(f"{self.system.name}: {error}") from error
                self.broken.append(str(error))
                await asyncio.sleep(self.system.settle_s)

    async def ask_together(self, cases: list[Case]) -> float:
        """All questions at once, each answered to the end: tokens per second until the last one is. RequestError."""
        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for case in cases:
                    group.create_task(self.ask(case, to_the_end=True))
        except* RequestError as failed:
            raise failed.exceptions[0] from None
        return ANSWER_TOKENS * len(cases) / (time.perf_counter() - started)
