"""Checks untrusted changes: a batch that may be committed, or all that is wrong with it."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from ulid import ULID

from kb.errors import InvalidChange, Problem
from kb.facts import LAST_SECOND, LAST_VERSION, NAME_PATTERN, Change, Delete, Limits, Upsert
from kb.metadata import has_surrogate, normalised_metadata

Check: TypeAlias = Callable[[Any], object]
"""The value of a field, normalised. Raises ValueError saying what is wrong with it."""

_NAME = re.compile(NAME_PATTERN)
_VISIBLE = frozenset("LNPS")
"""Letters, numbers, punctuation and symbols: the categories of Unicode that show by themselves."""
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and a symbol that show nothing all the same."""


def validate_batch(changes: Sequence[Change], limits: Limits) -> tuple[Change, ...]:
    """The same changes, checked and normalised, with an id made for each upsert that has none.

    Raises InvalidChange naming every bad field of every change.
    """
    if not changes:
        raise InvalidChange([Problem(0, "changes", "a batch holds at least one change")])
    if len(changes) > limits.batch_changes:
        message = f"a batch holds at most {limits.batch_changes} changes, got {len(changes)}"
        raise InvalidChange([Problem(limits.batch_changes, "changes", message)])
    checked: list[Change] = []
    problems: list[Problem] = []
    for index, change in enumerate(changes):
        try:
            checked.append(validate_change(change, limits, index))
        except InvalidChange as error:
            problems += error.problems
    problems += _repeated(changes)
    if problems:
        raise InvalidChange(sorted(problems, key=lambda problem: problem.index))
    return tuple(checked)


def validate_change(change: Change, limits: Limits, index: int = 0) -> Change:
    """One change, checked and normalised; raises InvalidChange whose problems carry `index`."""
    if not isinstance(change, (Upsert, Delete)):
        raise InvalidChange([Problem(index, "changes", f"neither an upsert nor a delete: {type(change).__name__}")])
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for field, check in _checks(change, limits).items():
        try:
            values[field] = check(getattr(change, field))
        except ValueError as error:
            problems.append(Problem(index, field, str(error)))
    if problems:
        raise InvalidChange(problems)
    return replace(change, **values)


def _checks(change: Change, limits: Limits) -> dict[str, Check]:
    name = partial(_name, longest=limits.id_chars)
    space = partial(_name, longest=limits.namespace_chars)
    if isinstance(change, Delete):
        return {"namespace": space, "id": name, "if_version": partial(_version, least=1)}
    return {
        "namespace": space,
        "id": lambda value: str(ULID()) if value is None else name(value),
        "text": partial(_text, longest=limits.text_chars),
        "metadata": partial(normalised_metadata, longest=limits.metadata_bytes, depth=limits.metadata_depth),
        "expires_at": partial(_expiry, now=time.time()),
        "if_version": partial(_version, least=0),
    }


def _repeated(changes: Sequence[Change]) -> Iterator[Problem]:
    """What the batch changes twice. Changes that are none, or have no proper id, are told elsewhere."""
    seen: dict[tuple[str, str], int] = {}
    for index, change in enumerate(changes):
        if not isinstance(change, (Upsert, Delete)) or not isinstance(change.id, str):
            continue
        first = seen.setdefault((str(change.namespace), change.id), index)
        if first != index:
            yield Problem(index, "id", f"{change.id[:128]!r} is also changed by change {first} of the batch")


def _name(name: object, longest: int) -> str:
    if not isinstance(name, str):
        raise ValueError(f"must be a string, not {type(name).__name__}")
    if not 0 < len(name) <= longest:
        raise ValueError(f"must have 1 to {longest} characters, has {len(name)}")
    if _NAME.fullmatch(name) is None:
        raise ValueError("must be ASCII letters, digits and ._:@~-, a letter or digit first")
    return name


def _text(text: object, longest: int) -> str:
    if not isinstance(text, str):
        raise ValueError(f"must be a string, not {type(text).__name__}")
    if len(text) > longest:
        raise ValueError(f"must have at most {longest} characters, has {len(text)}")
    if "\0" in text:
        raise ValueError("must not contain NUL")
    if has_surrogate(text):
        raise ValueError("must not contain lone surrogates")
    if not any(map(_shows, text)):
        raise ValueError("must not be empty: it holds nothing that can be read")
    return text


def _shows(character: str) -> bool:
    category = unicodedata.category(character)
    return (category[0] in _VISIBLE or category == "Co") and character not in _BLANK


def _version(version: object, least: int) -> int | None:
    if version is None:
        return None
    if isinstance(version, bool) or not isinstance(version, int):
        raise ValueError("must be a version or null")
    if not least <= version <= LAST_VERSION:
        raise ValueError(f"must lie between {least} and {LAST_VERSION}")
    return version


def _expiry(expires_at: object, now: float) -> float | None:
    if expires_at is None:
        return None
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
        raise ValueError("must be unix seconds or null")
    if not 0 <= expires_at <= LAST_SECOND:  # also refuses NaN
        raise ValueError(f"must lie between 0 and {LAST_SECOND} unix seconds")
    if expires_at <= now:
        raise ValueError("is in the past")
    # Microseconds are what ISO 8601 carries in an export, so that is what the store keeps.
    return round(float(expires_at), 6)
