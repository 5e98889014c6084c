"""Questions about passages, from SQuAD rows: one paragraph is one fact."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from lab.questions.question import Fact, Pool, Question, Split, split_of
from lab.questions.rows import read_rows
from lab.questions.wording import ended, styled

FILE = "squad_train_subset.jsonl.gz"
MAX_CHARACTERS = 600
MAX_TOKENS = 170
"""Of a paragraph: ρ reads its first 256 tokens, and a fact has at most 256 tokens of the model."""
TOKENS_PER_WORD = 1.4
MAX_ANSWER_WORDS = 8
FACTS_PER_QUESTION = 2

_SENTENCES = ("The answer is {}", "According to the facts, the answer is {}", "The facts say: {}", "That would be {}")


def load(directory: Path, split: Split, questions: int, seed: int) -> Pool:
    """A pool of up to `questions` questions, their paragraphs and others of the same split. Raises DataError."""
    rng = random.Random(f"squad:{split}:{seed}")
    rows = [
        row
        for row in read_rows(directory / FILE, ("title", "context", "question"), lists=("answers",))
        if split_of(_title(row)) == split and _is_short(row)
    ]
    asked = rng.sample(rows, min(questions, len(rows)))
    facts = {_paragraph(row): _title(row) for row in asked}
    for row in rng.sample(rows, len(rows)):
        if len(facts) >= questions * FACTS_PER_QUESTION:
            break
        facts.setdefault(_paragraph(row), _title(row))
    return Pool(
        "squad",
        tuple(_question(row, split, rng) for row in asked),
        tuple(Fact(text, title, "") for text, title in facts.items()),
    )


def _title(row: dict[str, Any]) -> str:
    return str(row["title"]).replace("_", " ")


def _paragraph(row: dict[str, Any]) -> str:
    return " ".join(str(row["context"]).split())


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.strip() for answer in row["answers"] if answer.strip()))


def _is_short(row: dict[str, Any]) -> bool:
    paragraph, answers = _paragraph(row), _answers(row)
    short = len(paragraph) <= MAX_CHARACTERS and len(paragraph.split()) * TOKENS_PER_WORD <= MAX_TOKENS
    answered = bool(answers) and len(answers[0].split()) <= MAX_ANSWER_WORDS and answers[0] in paragraph
    return short and answered and len(row["question"].strip()) > 8


def _question(row: dict[str, Any], split: Split, rng: random.Random) -> Question:
    answers = _answers(row)
    value = answers[0]
    text, reply = styled(
        row["question"].strip(),
        sentence=ended(rng.choice(_SENTENCES).format(value)),
        value=value if rng.random() < 0.5 else ended(value),
        it_is=ended(f"It is {value}"),
        split=split,
        rng=rng,
    )
    numeric = value[0].isdigit() or value[:2].strip("$£€-")[:1].isdigit()
    return Question("squad", _title(row), "", text, answers, reply, (_paragraph(row),), numeric)
