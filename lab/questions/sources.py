"""Pools of questions, by the name of their data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab.errors import DataError
from lab.questions import (
    counterfact,
    encyclopedia,
    factbook,
    lengthy,
    names,
    news,
    prose,
    squad,
    synthetic,
    town,
    two_fact,
)
from lab.questions.question import Pool, Split

_FROM_FILES: dict[str, Callable[[Path, Split, int, int], Pool]] = {
    "factbook": factbook.load,
    "counterfact": counterfact.load,
    "squad": squad.load,
    "encyclopedia": encyclopedia.load,
    "news": news.load,
    "prose": prose.load,
}
_GENERATED: dict[str, Callable[[Split, int, int], Pool]] = {
    "synthetic": synthetic.generate,
    "two_fact": two_fact.generate,
    "lengthy": lengthy.generate,
    names.DATASET: names.generate,
    town.DATASET: town.generate,
}
DATASETS: tuple[str, ...] = (*_FROM_FILES, *_GENERATED)
JUDGED_ONLY = frozenset({"news"})
"""Sets that nothing may be learned from: they have a test split and no other."""
KINDS = {
    "two_fact": "invented",
    "synthetic": "invented",
    "lengthy": "invented",
    names.DATASET: "invented",
    "prose": "squad",
}
"""Sets that are made of the same tables or passages are one kind; every other set is one of its own."""


def kind_of(dataset: str) -> str:
    """The kind of a set."""
    return KINDS.get(dataset, dataset)


def splits_of(dataset: str) -> tuple[Split, ...]:
    """What may be fitted to, and what is judged by."""
    return ("test",) if dataset in JUDGED_ONLY else ("dev", "test")


def load_pool(dataset: str, directory: Path | None, split: Split, *, questions: int, seed: int) -> Pool:
    """Up to `questions` questions (fewer if the set has no more), the same for the same arguments.

    `directory` holds the data files; the generated sets need none.
    Raises ValueError for an unknown set, DataError for a file that is missing or malformed.
    """
    if questions < 1:
        raise ValueError(f"questions must be at least 1, not {questions}")
    if dataset in _GENERATED:
        return _GENERATED[dataset](split, questions, seed)
    if dataset not in _FROM_FILES:
        raise ValueError(f"unknown set of questions {dataset!r}; there are {', '.join(DATASETS)}")
    if directory is None:
        raise DataError(f"the questions of {dataset} need a directory with its data file")
    return _FROM_FILES[dataset](directory, split, questions, seed)
