"""CounterFact prompts as sentences, and natural questions for what they ask.

The set's prompts are stems that a value completes. Some are no sentence ("X, developed by"): these are turned into
one, or dropped where no sentence can be made of them.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated

from lab.questions.tables import Table, filled_with, read_table


class _Relation(Table):
    name: str
    pattern: re.Pattern[str]
    """Of stems that state it."""
    questions: tuple[Annotated[str, filled_with("s")], ...]


class _Phrases(Table):
    dropped: re.Pattern[str]
    """Stems of which no sentence can be made."""
    completions: tuple[Annotated[str, filled_with("")], ...]
    stems: tuple[tuple[re.Pattern[str], str], ...]
    """Those that are no sentence, and the one each becomes."""
    relations: tuple[_Relation, ...]


@cache
def _phrases() -> _Phrases:
    return read_table("counterfact", _Phrases)


def completions() -> tuple[str, ...]:
    """Requests to go on with the sentence that {} begins."""
    return _phrases().completions


def stem_of(prompt: str, subject: str) -> str | None:
    """The prompt as the beginning of a sentence with {} for the subject; None if none can be made of it."""
    if prompt.count(subject) != 1 or "{" in prompt or "}" in prompt:
        return None
    stem = prompt.replace(subject, "{}").strip()
    for pattern, sentence in _phrases().stems:
        if pattern.search(stem):
            return pattern.sub(sentence, stem)
    return None if _phrases().dropped.search(stem) else stem


def relation_of(stem: str) -> tuple[str, tuple[str, ...]]:
    """Name of what the stem states, shared by its rewordings, and questions for it with {s} for the subject."""
    for relation in _phrases().relations:
        if relation.pattern.search(stem):
            return relation.name, relation.questions
    return stem, ()
