"""Factbook objects as short values: what a fact states, and what a reply must contain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from lab.questions.tables import Table, read_table

MAX_LENGTH = 60
"""Characters of a value; longer ones are lists and prose."""

_PARENTHESES = re.compile(r"\s*\([^()]*\)")
_LABEL = re.compile(r"^[a-z][a-z ]{2,30}: ")
_NOTE = re.compile(r"\bnote\b.*", re.IGNORECASE)
_NUMBER = re.compile(r"^\$?(-?)\$?(\d[\d,]*(?:\.\d+)?)(?! \w+ \d)((?: (?:million|billion|trillion))?)\b")
_UNIT = re.compile(r"%?(?: (?:[a-z][a-z-]*|[\d,]+|per|GDP|CO2|Btu|kWh|kW|US))*")
"""All that may follow a number; anything else is a second value."""
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(rf"\b(\d{{1,2}}) ({_MONTHS})( \d{{4}})?\b")
_IDENTIFIER = re.compile(r"\.[a-z]{2,3}|[A-Z0-9]{1,3}|UTC[+-]?\d+(?::\d+)?")
_ELEVATION = re.compile(r" -?[\d,]+(?:\.\d+)? m$")
_EMPTY = re.compile(r"(?:na|n/a|none|no|yes|unknown|0(?:\.0+)?(?:%| .*)?|less than .*|about .*|see .*)", re.IGNORECASE)
_TELEPHONE = re.compile(r"\[\d[\d-]*\][ \d()-]+")


@dataclass(frozen=True, slots=True)
class Value:
    """text: as facts state it, with its unit. answers: as in `Question`, each of them short; answers[0] is in text."""

    text: str
    answers: tuple[str, ...]
    numeric: bool


class _Titles(Table):
    """What comes before a person's name, as regular expressions."""

    ranks: tuple[str, ...]
    offices: tuple[str, ...]
    forms: tuple[str, ...]


class _Values(Table):
    units: tuple[tuple[re.Pattern[str], str], ...]
    """As the Factbook writes them, and as they are said."""
    titles: _Titles


@cache
def _values() -> _Values:
    return read_table("factbook_values", _Values)


@cache
def _title() -> re.Pattern[str]:
    titles = _values().titles
    ranks, offices, forms = map("|".join, (titles.ranks, titles.offices, titles.forms))
    return re.compile(rf"^(?:(?:{ranks}) )*(?:{offices})(?: of the Republic)? (?:{forms})*")


def value_of(relation: str, raw: str) -> Value | None:
    """The value in a Factbook object, or None if there is no clean one."""
    if "telephone" in relation or relation.endswith("FAX"):
        text = raw.split(";")[0].strip()
        return Value(text, (text, text.partition("] ")[2]), True) if _TELEPHONE.fullmatch(text) else None
    text = _clean(raw)
    if relation.startswith("Exchange rates - Currency"):
        text = text.split(" per US dollar")[0].strip(" -")
    if relation.startswith("Elevation - ") and "mean" not in relation:
        text = _ELEVATION.sub("", text)
    if not text or len(text) > MAX_LENGTH or _EMPTY.fullmatch(text) or set("()[]:") & set(text):
        return None
    if relation.startswith("Executive branch - ") and " of " in relation:
        return _person(text)
    if relation == "National holiday":
        return _holiday(text)
    return _typed(text)


def _clean(raw: str) -> str:
    text = _PARENTHESES.sub("", raw.replace("(s)", "s"))
    text = _NOTE.sub("", text.split(";")[0])
    text = _LABEL.sub("", text.strip()).strip(" ,.-" if text.strip()[:1] not in ".-" else " ,")
    for written, said in _values().units:
        text = written.sub(said, text)
    return " ".join(text.split()).replace("“", '"').replace("”", '"')


def _typed(text: str) -> Value | None:
    if date := _DATE.match(text):
        return Value(text, _dates(date), True) if date.end() == len(text) else None
    if number := _NUMBER.match(text):
        if not _UNIT.fullmatch(text[number.end() :]):
            return None
        sign, digits, magnitude = number.groups()
        core = sign + digits + magnitude
        if sign and "$" in text:
            return Value(text, (text.split()[0] + magnitude,), True)
        return Value(text, tuple(dict.fromkeys((core, core.replace(",", "")))), True)
    if text[0].isdigit() or text[0] == "-":
        return None
    return Value(text, (text.strip('"'),), bool(_IDENTIFIER.fullmatch(text)))


def _dates(date: re.Match[str]) -> tuple[str, str]:
    day, month, year = date.groups()
    return date.group(), f"{month} {day}," + year if year else f"{month} {day}"


def _holiday(text: str) -> Value | None:
    name, comma, day = text.rpartition(", ")
    if not comma or not _DATE.fullmatch(day) or "," in name:
        return None
    return Value(f"{name}, on {day}", (name,), False)


def _person(text: str) -> Value | None:
    """ "President Claudia SHEINBAUM Pardo": capitals mark the surname, titles come first."""
    words = text.split()
    surname = [word for word in words if len(word) > 2 and word.isupper()]
    if not surname or "," in text or "vacant" in text.casefold():
        return None
    titled = " ".join(word.title() if word in surname else word for word in words)
    name = _title().sub("", titled)
    return Value(titled, tuple(dict.fromkeys((name, " ".join(surname).title()))), False)
