"""Filters on metadata: which facts a search or a listing may give at all. Read from JSON, bounded, and told by name
where they are wrong.

    {"town": {"eq": "Velm"}, "year": {"gte": 1990, "lt": 2000}}       several fields, several operators: all of them
    {"or": [{"tags": {"in": ["ferry", "tram"]}}, {"not": {"line": {"exists": true}}}]}

A field is a key of the metadata; "address.town" is "town" of the object "address". Of a list each item counts: one that
satisfies the comparison is enough. Numbers are compared with numbers, by value (1 is 1.0), strings with strings, by
code points, so that ISO dates are in order; a number and a string, or a number and true, never match.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from kb.errors import KnowledgeError

Scalar: TypeAlias = "bool | int | float | str | None"
Order: TypeAlias = Literal["gt", "gte", "lt", "lte"]
OPERATORS: Final = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "exists")
COMBINERS: Final = ("and", "or", "not")

MAX_DEPTH: Final = 8
"""Of `and`, `or` and `not` within each other."""
MAX_CLAUSES: Final = 64
"""Comparisons of one filter: each looks at all rows of the index once."""
MAX_VALUES: Final = 256
"""Of all `in` lists together."""
MAX_CHARACTERS: Final = 4096
"""Of a field's name or a value: no longer ones are in any metadata."""


class InvalidFilter(KnowledgeError):
    """A filter is none. `path` leads to what is wrong: "filter.town.near"."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field has one of these values."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Ordered:
    """The field has a value of the same kind on this side of `value`."""

    field: str
    order: Order
    value: int | float | str


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there, whatever its value; null too."""

    field: str


@dataclass(frozen=True, slots=True)
class Every:
    """All of them hold."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """One of them holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold."""

    part: Filter


Filter: TypeAlias = "OneOf | Ordered | Exists | Every | Some | Not"


def read_filter(value: object, path: str = "filter") -> Filter:
    """The filter that decoded JSON says. Raises InvalidFilter, whose path begins with `path`."""
    return _Reader().filter(value, path, MAX_DEPTH)


def parse_filter(text: str, path: str = "filter") -> Filter:
    """The filter that JSON text says. Raises InvalidFilter likewise."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFilter(path, f"is not JSON: {error}") from error
    return read_filter(value, path)


class _Reader:
    """Of one filter: counts what is bounded."""

    def __init__(self) -> None:
        self._clauses = MAX_CLAUSES
        self._values = MAX_VALUES

    def filter(self, value: object, path: str, depth: int) -> Filter:
        if not isinstance(value, Mapping):
            raise InvalidFilter(path, f"must be an object of fields, or of {', '.join(COMBINERS)}")
        if depth == 0:
            raise InvalidFilter(path, f"is nested too deeply: {MAX_DEPTH} levels are allowed")
        parts: list[Filter] = []
        for name, inner in value.items():
            here = f"{path}.{str(name)[:64]}"
            if name in COMBINERS:
                parts.append(self._combined(name, inner, here, depth - 1))
            else:
                parts += self._field(name, inner, here)
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _combined(self, name: str, value: object, path: str, depth: int) -> Filter:
        if name == "not":
            self._count(path)
            return Not(self.filter(value, path, depth))
        if not isinstance(value, list) or not value:
            raise InvalidFilter(path, "must be a list of filters, at least one")
        parts: list[Filter] = []
        for place, one in enumerate(value):
            here = f"{path}[{place}]"
            self._count(here)  # empty ones too, and before they are looked at
            parts.append(self.filter(one, here, depth))
        return Every(tuple(parts)) if name == "and" else Some(tuple(parts))

    def _field(self, name: object, value: object, path: str) -> list[Filter]:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_CHARACTERS:
            raise InvalidFilter(path, f"a field's name must have 1 to {MAX_CHARACTERS} characters")
        if not isinstance(value, Mapping) or not value:
            raise InvalidFilter(path, f'must be an object of operators, such as {{"eq": …}}: {", ".join(OPERATORS)}')
        return [
            self._clause(name, operator, operand, f"{path}.{str(operator)[:64]}") for operator, operand in value.items()
        ]

    def _clause(self, field: str, operator: object, operand: object, path: str) -> Filter:
        self._count(path)
        match operator:
            case "eq":
                return OneOf(field, (_scalar(operand, path),))
            case "ne":
                return Not(OneOf(field, (_scalar(operand, path),)))
            case "in":
                return OneOf(field, self._list(operand, path))
            case "gt" | "gte" | "lt" | "lte":
                return Ordered(field, operator, _orderable(operand, path))
            case "exists":
                if not isinstance(operand, bool):
                    raise InvalidFilter(path, "must be true or false")
                return Exists(field) if operand else Not(Exists(field))
        raise InvalidFilter(path, f"is no operator; these are: {', '.join(OPERATORS)}")

    def _list(self, operand: object, path: str) -> tuple[Scalar, ...]:
        if not isinstance(operand, list):
            raise InvalidFilter(path, "must be a list of values")
        self._values -= len(operand)
        if self._values < 0:
            raise InvalidFilter(path, f"is too long: all lists of a filter have at most {MAX_VALUES} values together")
        return tuple(_scalar(one, f"{path}[{place}]") for place, one in enumerate(operand))

    def _count(self, path: str) -> None:
        self._clauses -= 1
        if self._clauses < 0:
            raise InvalidFilter(path, f"is one too many: a filter has at most {MAX_CLAUSES} clauses")


def _scalar(value: object, path: str) -> Scalar:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise InvalidFilter(path, "must be a string, a number, true, false or null")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidFilter(path, "must be finite")
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise InvalidFilter(path, f"must have at most {MAX_CHARACTERS} characters")
    return value


def _orderable(value: object, path: str) -> int | float | str:
    checked: Any = _scalar(value, path)
    if checked is None or isinstance(checked, bool):
        raise InvalidFilter(path, "must be a number or a string")
    return checked  # type: ignore[no-any-return]
