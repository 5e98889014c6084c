"""What the frozen model itself replies when it is given the right facts alone: for questions without a reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from kan.knowledge.fit import Fit
from lab.evaluation.subject import Advance, Ask, Given, Respondent, Setup, Subject
from lab.questions.question import Question

MAX_TOKENS = 64
"""Of a reply. Longer ones are cut."""
SLICE = 256
"""Questions answered between two writes of the file."""


async def own_replies(
    subject: Subject, questions: Sequence[Question], file: Path, advance: Advance
) -> dict[Question, str]:
    """Greedy; a question it has nothing to say to is left out.

    `file` keeps all replies: a run that is resumed, or another with the same questions, asks none twice.
    """
    known = _read(file)
    missing = [one for one in dict.fromkeys(questions) if _key(one) not in known]
    advance(len(questions) - len(missing))
    if missing:
        await _ask(subject, missing, known, file, advance)
    return {one: known[_key(one)] for one in questions if known[_key(one)]}


async def _ask(
    subject: Subject, questions: Sequence[Question], known: dict[str, str], file: Path, advance: Advance
) -> None:
    plain = Setup(subject.model, None)
    with TemporaryDirectory() as pages:
        async with aclosing(Respondent(subject, Path(pages), MAX_TOKENS)) as respondent:
            for start in range(0, len(questions), SLICE):
                some = questions[start : start + SLICE]
                replies = await respondent.answers(plain, [_alone(one) for one in some], advance)
                known |= {_key(one): reply.text for one, reply in zip(some, replies, strict=True)}
                _write(file, known)


def _alone(question: Question) -> Ask:
    return Ask(question.text, tuple(Given(text, Fit(1.0)) for text in question.facts))


def _key(question: Question) -> str:
    return json.dumps([question.text, *question.facts], ensure_ascii=False)


def _read(file: Path) -> dict[str, str]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _write(file: Path, replies: Mapping[str, str]) -> None:
    staged = file.with_suffix(".new")
    staged.write_text(json.dumps(replies, ensure_ascii=False, indent=0), encoding="utf-8")
    staged.replace(file)
