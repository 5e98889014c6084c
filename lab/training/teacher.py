"""What the model itself replies when it is given the right facts alone: for questions that have no reply, or one
that is not to be learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from kan.knowledge.fit import Fit
from kan.knowledge.phi import Phi
from lab.evaluation.subject import Advance, Ask, Given, Respondent, Setup, Subject
from lab.questions.question import Question

MAX_TOKENS = 64
"""Of a reply. Longer ones are cut."""
SLICE = 256
"""Questions answered between two writes of the file."""


async def own_replies(
    subject: Subject, questions: Sequence[Question], file: Path, advance: Advance
) -> dict[Question, str]:
    """Of the frozen model; see `replies_of`."""
    asks = {one: Ask(one.text, tuple(Given(text, Fit(1.0)) for text in one.facts)) for one in questions}
    advance(len(questions) - len(asks))
    return await replies_of(subject, None, asks, file, advance)


async def replies_of(
    subject: Subject, phi: Phi | None, asks: Mapping[Question, Ask], file: Path, advance: Advance
) -> dict[Question, str]:
    """Greedy; a question it has nothing to say to is left out.

    `file` keeps all replies: a run that is resumed, or another with the same questions, asks none twice.
    """
    known = _read(file)
    missing = {one: ask for one, ask in asks.items() if _key(one) not in known}
    advance(len(asks) - len(missing))
    if missing:
        await _ask(subject, phi, missing, known, file, advance)
    return {one: known[_key(one)] for one in asks if known[_key(one)]}


async def _ask(
    subject: Subject, phi: Phi | None, asks: Mapping[Question, Ask], known: dict[str, str], file: Path, advance: Advance
) -> None:
    setup, questions = Setup(subject.model, phi), list(asks)
    with TemporaryDirectory() as pages:
        async with aclosing(Respondent(subject, Path(pages), MAX_TOKENS)) as respondent:
            for start in range(0, len(questions), SLICE):
                some = questions[start : start + SLICE]
                replies = await respondent.answers(setup, [asks[one] for one in some], advance)
                known |= {_key(one): reply.text for one, reply in zip(some, replies, strict=True)}
                _write(file, known)


def _key(question: Question) -> str:
    return json.dumps([question.text, *question.facts], ensure_ascii=False)


def _read(file: Path) -> dict[str, str]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _write(file: Path, replies: Mapping[str, str]) -> None:
    staged = file.with_suffix(".new")
    staged.write_text(json.dumps(replies, ensure_ascii=False, indent=0), encoding="utf-8")
    staged.replace(file)
