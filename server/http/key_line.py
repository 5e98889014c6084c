"""A line of a key file: whose key it is, and what it opens.

`name:sha256-hex`, and behind it, if the key is bound, words apart by spaces: `read=NAMESPACES` and `edit=NAMESPACES`
(names with commas between them, or * for all; where both are missing everything is open, where one is, nothing of that
kind), and `weight=NUMBER`, the owner's share where callers wait for each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kb.facts import DEFAULT_NAMESPACE, NAME_PATTERN, Limits
from server.service.access import EVERYTHING, Access

KEY_NAME = "[A-Za-z0-9._-]{1,64}"
"""Pattern of the name of a key's owner."""
ALL = "*"
"""Every namespace, those to come too."""
MAX_WEIGHT = 1000.0
MAX_NAMESPACES = 1000
"""Of one key, of each kind: they are looked up together."""
_NAMESPACE = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose key it is, and what it opens."""

    name: str
    access: Access = EVERYTHING
    weight: float | None = None
    """None: the file does not say."""


def options_of(read: str | None, edit: str | None, weight: float | None) -> str:
    """What belongs behind the digest, a space first; empty if the key is bound to nothing. Raises ValueError."""
    words = (("read", read), ("edit", edit), ("weight", None if weight is None else f"{weight:g}"))
    options = "".join(f" {word}={value}" for word, value in words if value is not None)
    owner_of("", options)
    return options


def owner_of(name: str, options: str) -> Owner:
    """What a line says behind the digest. Raises ValueError, whose message quotes nothing but names of options and
    namespaces."""
    if options and not options[0].isspace():
        raise ValueError("expected a space behind the digest")
    given: dict[str, str] = {}
    for option in options.split():
        word, separator, value = option.partition("=")
        if not separator or word not in ("read", "edit", "weight"):
            raise ValueError("expected read=, edit= or weight= behind the digest")
        if word in given:
            raise ValueError(f"{word} is given twice")
        given[word] = value
    weight = _weight(given["weight"]) if "weight" in given else None
    if "read" not in given and "edit" not in given:
        return Owner(name, EVERYTHING, weight)
    read, edit = (_namespaces(word, given.get(word)) for word in ("read", "edit"))
    return Owner(name, Access(_set(read), _set(edit), _home(read or edit)), weight)


def _namespaces(word: str, value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    names = tuple(value.split(","))
    if names == (ALL,):
        return names
    longest = Limits().namespace_chars
    if not all(_NAMESPACE.fullmatch(name) and len(name) <= longest for name in names):
        raise ValueError(f"{word}: expected names of namespaces with commas between them, or *")
    if len(names) > MAX_NAMESPACES:
        raise ValueError(f"{word}: at most {MAX_NAMESPACES} namespaces")
    return names


def _set(names: tuple[str, ...]) -> frozenset[str] | None:
    return None if names == (ALL,) else frozenset(names)


def _home(names: tuple[str, ...]) -> str:
    """The usual one if it is open, else the first that is named."""
    return DEFAULT_NAMESPACE if {DEFAULT_NAMESPACE, ALL} & set(names) else names[0]


def _weight(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= MAX_WEIGHT:
        raise ValueError(f"weight: expected a number above 0, at most {MAX_WEIGHT:g}")
    return weight
