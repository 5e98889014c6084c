"""Is a reply right? Texts are compared as sequences of normalised words, so that 93.2 is not found inside 193.25.

A date is the same in whatever order it is said: April 8, 1938 is 8 April 1938.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lab.questions.question import parts_of

_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# A sign only where a number may begin; inside a word only what joins digits: 3.14, 12:30.
_WORD = re.compile(r"(?:(?<![\w.])[-−](?=\d))?[^\W_]+(?:(?<=\d)[.:](?=\d)[^\W_]+)*")
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_MONTH_FIRST = re.compile(rf"\b({_MONTH}) {_DAY},? (\d{{4}})\b")
_DAY_FIRST = re.compile(rf"\b{_DAY} (?:of )?({_MONTH}),? (\d{{4}})\b")
_WITH_UNIT = re.compile(r"(-?\d[\d.:]*)(th|st|nd|rd|k?m|[cm]m|k?g|[kmgt]?wh?|ft|mi|sq|am|pm|km2|m2)")


def words(text: str) -> list[str]:
    """Case-folded words and numbers, without punctuation, accents and thousands separators. A number is one word."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = _DAY_FIRST.sub(r"\1 \2 \3", _MONTH_FIRST.sub(r"\2 \1 \3", _THOUSANDS.sub("", plain.casefold())))
    found: list[str] = []
    for match in _WORD.finditer(plain):
        word = match.group().replace("−", "-")
        with_unit = _WITH_UNIT.fullmatch(word)
        found += with_unit.groups() if with_unit else [word]
    return found


def contains(reply: str, answers: Sequence[str], numeric: bool = False) -> bool:
    """True if one of the answers occurs in the reply, word by word; of an answer joined by ` & `, every part.

    A numeric answer (a number or an identifier) must occur with all its words, articles included.
    """
    said = words(reply)
    parts = [[words(part) for part in parts_of(answer)] for answer in answers]
    return any(all(_occurs(part, said, numeric) for part in one) for one in parts)


def exact_match(reply: str, answers: Sequence[str], numeric: bool = False) -> bool:
    """True if the reply is one of the answers and nothing else, but for case, punctuation and articles."""
    said = words(reply)
    return any(_same(said, words(answer), numeric) for answer in answers)


def _same(said: list[str], answer: list[str], numeric: bool) -> bool:
    return said == answer or (not numeric and bool(_plain(answer)) and _plain(said) == _plain(answer))


def _occurs(part: list[str], said: list[str], numeric: bool) -> bool:
    """An answer that is nothing but an article is looked for as it is."""
    if not numeric and (plain := _plain(part)):
        part, said = plain, _plain(said)
    places = range(len(said) - len(part) + 1) if part else ()
    return any(said[start : start + len(part)] == part for start in places)


def _plain(found: list[str]) -> list[str]:
    return [word for word in found if word not in _ARTICLES]
