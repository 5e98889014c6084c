"""Questions that ask for more than a value: an explanation, a summary, a list. The passages are SQuAD's.

They have no reply of their own: what a good one is, the model itself says when it has the right passage alone.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

from lab.questions import squad
from lab.questions.question import Pool, Question, Split
from lab.questions.tables import Table, filled_with, read_table
from lab.questions.wording import choose


class _Wordings(Table):
    wordings: tuple[Annotated[str, filled_with("")], ...]


@cache
def _table() -> _Wordings:
    return read_table("prose", _Wordings)


def load(directory: Path, split: Split, questions: int, seed: int) -> Pool:
    """A pool of up to `questions` questions. Raises DataError."""
    rng = random.Random(f"prose:{split}:{seed}")
    pool = squad.load(directory, split, questions, seed + 1)  # others than the set that asks for values
    return replace(pool, dataset="prose", questions=tuple(_asked(one, split, rng) for one in pool.questions))


def _asked(question: Question, split: Split, rng: random.Random) -> Question:
    text = choose(_table().wordings, split, rng).format(question.text)
    return replace(question, dataset="prose", text=text, reply="")
