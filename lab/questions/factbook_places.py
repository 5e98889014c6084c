"""How the Factbook's countries and territories are called in a sentence."""

from __future__ import annotations

import re
from functools import cache

from lab.questions.tables import Table, read_table


class _Places(Table):
    """Lists are of patterns for whole names."""

    with_article: tuple[re.Pattern[str], ...]
    skipped: tuple[re.Pattern[str], ...]
    renamed: dict[str, str]


@cache
def _places() -> _Places:
    return read_table("factbook_places", _Places)


def place_name(subject: str) -> str | None:
    """The name inside a sentence ("the Maldives"); None for entries that are several places or written twice."""
    places = _places()
    if any(pattern.fullmatch(subject) for pattern in places.skipped):
        return None
    if subject in places.renamed:
        return places.renamed[subject]
    return f"the {subject}" if any(pattern.fullmatch(subject) for pattern in places.with_article) else subject
