"""From answers to figures: medians and p99 of every system, and how many times the first one is faster than it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.answer import Answer
from loadtests.peers.systems import ANSWER_TOKENS, Case
from loadtests.report import Report
from loadtests.stats import percentage, ratio_of_medians

FIRST = "first token (ms)"
AGAIN = "first token, facts asked about before (ms)"
TOKEN = "time per token (ms)"
WHOLE = f"{ANSWER_TOKENS} tokens (ms)"
TIMES = (FIRST, AGAIN, TOKEN, WHOLE)
RIGHT = "right answers (%)"
PROMPT = "prompt (tokens)"


@dataclass(slots=True)
class Record:
    """What one system did, in the order of the questions."""

    fresh: list[Answer] = field(default_factory=list)
    """Of 64 tokens each."""
    again: list[Answer] = field(default_factory=list)
    """Over facts that the question before had as well."""
    right: list[bool] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Streams -> tokens per second, of each wave."""


def rate(streams: int) -> str:
    return f"tokens per second, {streams} stream{'s' if streams > 1 else ''}"


def of(measure: str, system: str) -> str:
    """The name that a measure of a system has in the report."""
    return f"{measure}: {system}"


def ahead(measure: str, system: str) -> str:
    """The name of how many times faster the first system is than this one; below 1, it is slower."""
    return f"{measure}, times faster than: {system}"


def summarise(report: Report, records: Mapping[str, Record], cases: Sequence[Case], count: int, waves: int) -> None:
    """`cases` are those of the questions, in their order; `count` and `waves` say how many were wanted."""
    series = {name: _series(record) for name, record in records.items()}
    first = next(iter(records))
    for name, record in records.items():
        for measure, values in series[name].items():
            wanted = count if measure in (*TIMES, rate(1)) else waves
            report.add_series(of(measure, name), values, wanted)
            if name != first and values:
                ours = series[first][measure]
                above, below = (values, ours) if measure in TIMES else (ours, values)
                report.estimates[ahead(measure, name)] = ratio_of_medians(above, below)
        if record.right:
            report.estimates[of(RIGHT, name)] = percentage(record.right)
    _check(report, records, cases)


def _series(record: Record) -> dict[str, list[float]]:
    return {
        FIRST: [answer.ttft * 1e3 for answer in record.fresh],
        AGAIN: [answer.ttft * 1e3 for answer in record.again],
        TOKEN: [_per_token(answer) * 1e3 for answer in record.fresh],
        WHOLE: [answer.ended * 1e3 for answer in record.fresh],
        rate(1): [ANSWER_TOKENS / answer.ended for answer in record.fresh],
        **{rate(streams): rates for streams, rates in sorted(record.rates.items())},
    }


def _per_token(answer: Answer) -> float:
    """Seconds, the first token left out."""
    return (answer.ended - answer.ttft) / (ANSWER_TOKENS - 1)


def _check(report: Report, records: Mapping[str, Record], cases: Sequence[Case]) -> None:
    """Facts, prompts and lengths must be what they are said to be, or the comparison is none."""
    prompts = {}
    for name, record in records.items():
        if short := sum(answer.completion_tokens != ANSWER_TOKENS for answer in record.fresh if answer.prompt_tokens):
            report.failures.append(f"{name}: {short} answers did not have {ANSWER_TOKENS} tokens")
        if record.fresh and not any(answer.facts for answer in record.fresh) and record.fresh[0].prompt_tokens:
            prompts[name] = [answer.prompt_tokens for answer in record.fresh]
            report.add_series(of(PROMPT, name), prompts[name])
    if len({tuple(lengths) for lengths in prompts.values()}) > 1:
        report.failures.append(f"the same prompts are not as long everywhere: {', '.join(prompts)}")
    mounted = next(iter(records.values())).fresh
    pairs = zip(mounted, cases, strict=False)
    if others := sum({fact.id for fact in answer.facts} != {fact.id for fact in case.facts} for answer, case in pairs):
        report.failures.append(f"{others} answers mounted other facts than were pasted")
