"""What a form costs: time per token of answers that must be JSON of a schema, against free ones."""

from __future__ import annotations

from loadtests.answer import Answer
from loadtests.corpus import Item
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench, user

ANSWER_TOKENS = 96
WITH = "time per token with a form (ms)"
WITHOUT = "time per token without (ms)"
FIRST_WITH = "TTFT with a form (ms)"
FIRST_WITHOUT = "TTFT without (ms)"
RATIO = "time per token, ratio of medians, with / without"
SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "kind": {"enum": ["person", "place", "thing"]},
            "year": {"type": "integer", "minimum": 1000, "maximum": 2100},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        },
        "required": ["name", "kind", "year", "tags"],
        "additionalProperties": False,
    },
}
"""No answer comes to its end."""


async def run(options: Options, progress: Progress) -> Report:
    """Alternates the two question by question, in turn first one and then the other first. Raises RequestError."""
    async with open_bench(options, progress) as bench:
        report = new_report("form", bench)
        for item in bench.repeated(WARM_UP):
            await _pair(bench, item, swap=False)
        items = list(enumerate(bench.repeated(options.count)))
        pairs = [await _pair(bench, item, swap=bool(turn % 2)) for turn, item in bench.in_time("questions", items)]
        report.add_series(WITH, [_per_token(kept) for kept, _ in pairs], options.count)
        report.add_series(WITHOUT, [_per_token(free) for _, free in pairs], options.count)
        report.add_series(FIRST_WITH, [kept.ttft * 1e3 for kept, _ in pairs], options.count)
        report.add_series(FIRST_WITHOUT, [free.ttft * 1e3 for _, free in pairs], options.count)
        report.ratio(RATIO, WITH, WITHOUT)
        short = sum(one.completion_tokens != ANSWER_TOKENS for pair in pairs for one in pair)
        if short:
            report.failures.append(f"{short} answers do not have {ANSWER_TOKENS} tokens")
        return report


async def _pair(bench: Bench, item: Item, *, swap: bool) -> tuple[Answer, Answer]:
    """With a form, and without."""
    if swap:
        free = await _ask(bench, item, {})
        return await _ask(bench, item, {"guided_json": SCHEMA}), free
    return await _ask(bench, item, {"guided_json": SCHEMA}), await _ask(bench, item, {})


async def _ask(bench: Bench, item: Item, fields: dict[str, object]) -> Answer:
    messages, nothing = user(item.question), {"enabled": False}
    return await bench.client.ask(messages, nothing, ANSWER_TOKENS, to_the_end=True, fields=fields)


def _per_token(answer: Answer) -> float:
    """Milliseconds."""
    return (answer.ended - answer.ttft) * 1e3 / (answer.completion_tokens - 1)
