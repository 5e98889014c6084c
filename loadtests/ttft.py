"""Time to first token: facts mounted as knowledge pages against the same facts pasted into the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.answer import Answer
from loadtests.corpus import Item, pasted
from loadtests.report import Report
from loadtests.scenario import WARM_UP, Bench, Options, Progress, new_report, open_bench, user

ANSWER_TOKENS = 4
"""Enough for a first token and a last chunk, which says what was mounted."""
FACTS_MOUNTED = 8
SIZED_FACTS = 100
"""How many facts are sent through /tokenize."""

MOUNTED = "TTFT, 8 facts mounted (ms)"
PASTED = "TTFT, same facts in the prompt (ms)"


async def run(options: Options, progress: Progress) -> Report:
    """Alternates the two ways question by question: both see the same machine. Raises RequestError."""
    async with open_bench(options, progress) as bench:
        report = new_report("ttft", bench)
        await bench.load(item.fact for item in bench.corpus)
        await _sizes(bench, report)
        for item in bench.repeated(WARM_UP):
            await _pair(bench, item)
        pairs = [await _pair(bench, item) for item in bench.in_time("questions", bench.repeated(options.count))]
        _summarise(report, pairs, options.count)
        return report


async def _sizes(bench: Bench, report: Report) -> None:
    questions = bench.corpus[: bench.options.count]
    facts = bench.corpus[:: max(1, len(bench.corpus) // SIZED_FACTS)]
    report.add_series("fact (tokens)", [await bench.client.count_tokens(i.fact.text) for i in facts])
    report.add_series("question (tokens)", [await bench.client.count_tokens(i.question) for i in questions])


async def _pair(bench: Bench, item: Item) -> tuple[Answer, Answer]:
    """The same question with facts mounted, then with exactly those facts in the prompt."""
    mounted = await ask_mounted(bench, item)
    texts = [await bench.client.fact_text(fact.id, bench.namespace) for fact in mounted.facts]
    messages = [{"role": "system", "content": pasted(texts)}, *user(item.question)]
    return mounted, await bench.client.ask(messages, {"enabled": False}, ANSWER_TOKENS, to_the_end=True)


def _summarise(report: Report, pairs: list[tuple[Answer, Answer]], wanted: int) -> None:
    report.add_series(MOUNTED, [mounted.ttft * 1e3 for mounted, _ in pairs], wanted)
    report.add_series(PASTED, [prompt.ttft * 1e3 for _, prompt in pairs], wanted)
    report.add_series("retrieval (ms)", [mounted.retrieval_ms or 0.0 for mounted, _ in pairs])
    report.add_series("prompt with the facts (tokens)", [prompt.prompt_tokens for _, prompt in pairs])
    report.ratio("TTFT ratio of medians, prompt / mounted", PASTED, MOUNTED)
    require_mounted(report, [mounted for mounted, _ in pairs])


async def ask_mounted(bench: Bench, item: Item) -> Answer:
    """The question with facts mounted, to the end of a short answer."""
    return await bench.client.ask(user(item.question), bench.knowledge, ANSWER_TOKENS, to_the_end=True)


def require_mounted(report: Report, answers: Sequence[Answer]) -> None:
    """Answers that did not mount as many facts as they should are a failure of the report."""
    short = sum(len(answer.facts) != FACTS_MOUNTED for answer in answers)
    if short:
        report.failures.append(f"{short} answers did not mount {FACTS_MOUNTED} facts")
