"""Real changes of the Factbook: a fact is edited in the base, and the question is asked before and after."""

from __future__ import annotations

from collections.abc import Sequence

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.measures import contains
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap
from lab.evaluation.subject import Advance, Respondent, Setup
from lab.questions.factbook import Edit

BASE_EDITS = 500


async def measure(
    edits: Sequence[Edit], base: KnowledgeBase, setup: Setup, respondent: Respondent, questions: int, advance: Advance
) -> Findings:
    """All old facts are in `base` first; then all are replaced under their ids, as an editor would do it."""
    asked = edits[:questions]
    base.upsert({str(place): edit.old_fact for place, edit in enumerate(edits)})
    old = [base.ask(edit.question.text) for edit in asked]
    before = [one.text for one in await respondent.answers(setup, old, advance)]
    base.upsert({str(place): edit.question.facts[0] for place, edit in enumerate(edits)})
    new = [base.ask(edit.question.text) for edit in asked]
    after = [one.text for one in await respondent.answers(setup, new, advance)]

    def share(replies: Sequence[str], *, of_new: bool) -> list[bool]:
        answers = [edit.question.answers if of_new else edit.old_answers for edit in asked]
        numeric = [edit.question.numeric for edit in asked]
        return [contains(*one) for one in zip(replies, answers, numeric, strict=True)]

    findings = Findings(f"Factbook edits: {len(asked)} of {len(edits)} facts changed, mounted as retrieved")
    mounted = [edit.question.facts[0] in [one.text for one in ask.facts] for edit, ask in zip(asked, new, strict=True)]
    findings.figures = {
        "the fact was mounted": bootstrap(mounted),
        "before: old value said": bootstrap(share(before, of_new=False)),
        "before: new value said": bootstrap(share(before, of_new=True)),
        "after: new value said": bootstrap(share(after, of_new=True)),
        "after: old value said": bootstrap(share(after, of_new=False)),
    }
    findings.examples = [
        {
            "question": edit.question.text,
            "before": b,
            "after": a,
            "old": edit.old_answers[0],
            "new": edit.question.answers[0],
        }
        for edit, b, a in list(zip(asked, before, after, strict=True))[:10]
    ]
    return findings
