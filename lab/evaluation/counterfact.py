"""CounterFact edits through retrieval: does a mounted fact override what the model believes, and only that?

efficacy     the edited sentence is continued with the new object
paraphrase   so is another wording of it
locality     a neighbour's sentence is continued as without any knowledge, and not with the new object
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.measures import contains
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Advance, Ask, Respondent, Setup
from lab.questions.counterfact import CounterfactEdit

BASE_EDITS = 500
REQUEST = "Complete the sentence: {} …"
KINDS: dict[str, Callable[[CounterfactEdit], str]] = {
    "efficacy": lambda edit: edit.question.text,
    "paraphrase": lambda edit: edit.paraphrase,
    "locality": lambda edit: edit.locality_prompt,
}


async def measure(
    edits: Sequence[CounterfactEdit],
    base: KnowledgeBase,
    setup: Setup,
    respondent: Respondent,
    questions: int,
    advance: Advance,
) -> Findings:
    """`base` is filled with the edits; `questions` of them are asked about, each in three ways, with it and without."""
    base.upsert({str(place): edit.question.facts[0] for place, edit in enumerate(edits)})
    asked = edits[:questions]
    findings = Findings(f"CounterFact: {len(asked)} of {len(edits)} edits, mounted as retrieved")
    for kind, sentence in KINDS.items():
        texts = [REQUEST.format(sentence(edit).strip()) for edit in asked]
        on = [base.ask(text) for text in texts]
        after = [one.text for one in await respondent.answers(setup, on, advance)]
        before = [one.text for one in await respondent.answers(setup, [Ask(text) for text in texts], advance)]
        _judge(findings, kind, asked, on, before, after)
    return findings


def _judge(
    findings: Findings,
    kind: str,
    asked: Sequence[CounterfactEdit],
    on: Sequence[Ask],
    before: Sequence[str],
    after: Sequence[str],
) -> None:
    new = [edit.question.answers for edit in asked]
    figures = findings.figures
    gold = [edit.question.facts[0] in [one.text for one in ask.facts] for edit, ask in zip(asked, on, strict=True)]
    figures[f"{kind}: the edit was mounted"] = bootstrap(gold)
    figures[f"{kind}: new object said, before"] = bootstrap(_said(before, new))
    figures[f"{kind}: new object said, after"] = bootstrap(_said(after, new))
    if kind == "locality":
        true = [(edit.locality_ground_truth,) for edit in asked]
        figures["locality: true object said, before"] = bootstrap(_said(before, true))
        figures["locality: true object said, after"] = bootstrap(_said(after, true))
        figures["locality: something was mounted"] = bootstrap([bool(one.facts) for one in on])
        figures["locality: same reply"] = bootstrap([a == b for a, b in zip(after, before, strict=True)])
    findings.examples += [
        {"kind": kind, "question": ask.question, "before": b, "after": a, "new": answers[0]}
        for ask, b, a, answers in list(zip(on, before, after, new, strict=True))[:10]
    ]


def _said(replies: Sequence[str], answers: Sequence[Sequence[str]]) -> list[bool]:
    return [contains(reply, one) for reply, one in zip(replies, answers, strict=True)]
