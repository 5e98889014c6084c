"""After an acknowledged edit, no question asked on another connection may be answered from older facts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from loadtests.answer import Answer
from loadtests.client import Edit, FactRecord, connect
from loadtests.corpus import person
from loadtests.report import Report
from loadtests.scenario import Options, Progress, new_report, open_bench, user

EDITED = "edited-fact"
QUESTION = "Who is the keeper of the Quiet Cape lighthouse?"
ANSWER_TOKENS = 12


@dataclass(frozen=True, slots=True)
class _Round:
    """One edit and the answer that followed it."""

    value: str
    edit: Edit
    answer: Answer
    page: str
    """The name of the K/V pages of the text just written."""


async def run(options: Options, progress: Progress) -> Report:
    """Edits over one connection, questions over another. Raises RequestError."""
    async with open_bench(options, progress) as bench, connect(options.target) as reader:
        report = new_report("recency", bench)
        await bench.load(item.fact for item in bench.corpus)
        rounds: list[_Round] = []
        for serial in bench.in_time("edits and questions", range(options.count)):
            value = _value(options.seed, serial)
            edit = await bench.client.put_facts([_fact(value)], bench.namespace, bench.expires_at)
            answer = await reader.ask(user(QUESTION), bench.knowledge, ANSWER_TOKENS, to_the_end=True)
            page = await bench.client.fact_page(EDITED, bench.namespace)
            rounds.append(_Round(value, edit, answer, page))
        _summarise(report, rounds, options.count)
        return report


def _value(seed: int, serial: int) -> str:
    """A name that differs from the one before it, and from every other by its number."""
    return f"{person(random.Random(seed * 1_000_003 + serial))} {serial}"


def _fact(value: str) -> FactRecord:
    return FactRecord(EDITED, f"The keeper of the Quiet Cape lighthouse is {value}.")


def stale(acknowledged: int, page: str, answer: Answer) -> str | None:
    """Why the answer was drawn from knowledge older than the acknowledged version; None if it was not.

    Judged by the versions it reports and by the K/V pages it read: their name is a digest of the text in them.
    """
    if answer.knowledge_version is None or answer.knowledge_version < acknowledged:
        return f"snapshot {answer.knowledge_version} is older than {acknowledged}"
    mounted = [fact for fact in answer.facts if fact.id == EDITED]
    if not mounted:
        return f"the fact edited in version {acknowledged} is not mounted"
    if mounted[0].version < acknowledged:
        return f"the mounted fact has version {mounted[0].version}, acknowledged was {acknowledged}"
    if mounted[0].page != page:
        return f"the pages read are those of another text ({mounted[0].page[:12]}, not {page[:12]})"
    return None


def _summarise(report: Report, rounds: list[_Round], wanted: int) -> None:
    report.add_series("edit acknowledged (ms)", [r.edit.seconds * 1e3 for r in rounds], wanted)
    report.add_series("TTFT of the question after it (ms)", [r.answer.ttft * 1e3 for r in rounds])
    faults = [reason for r in rounds if (reason := stale(r.edit.version, r.page, r.answer))]
    report.figures["stale answers"] = len(faults)
    # Told, not judged: how a small model words its answer is no evidence of what it was given.
    worded = sum(r.value.rpartition(" ")[0] in r.answer.text for r in rounds)
    report.figures["answers that spell the new name, of all"] = worded / max(1, len(rounds))
    if faults:
        report.failures.append(f"{len(faults)} stale answers; the first: {faults[0]}")
