"""Names and values that nobody has heard of, made of syllables and of templates (`data/names.toml`)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Container, Sequence
from functools import cache
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator

from lab.questions.question import Split, split_of
from lab.questions.tables import Table, read_table, slots

_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def _check(templates: tuple[str, ...], makers: Container[str]) -> tuple[str, ...]:
    for slot in set[str]().union(*map(slots, templates)):
        if not (slot in _MADE or slot in makers or "|" in slot or _RANGE.fullmatch(slot)):
            raise ValueError(f"nothing makes {{{slot}}}")
    return templates


_Templates = Annotated[tuple[str, ...], BeforeValidator(lambda one: (one,) if isinstance(one, str) else one)]
Templates = Annotated[_Templates, AfterValidator(lambda them: _check(them, _names().makers))]
"""Of a table's field: one template, or several to draw from, with slots that `make` can fill."""


class _Names(Table):
    """Parts of invented words, and the makers that slots name."""

    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    middles: tuple[str, ...]
    codas: tuple[str, ...]
    makers: dict[str, _Templates]

    @model_validator(mode="after")
    def _whole(self) -> _Names:
        for templates in self.makers.values():
            _check(templates, self.makers)
        return self


@cache
def _names() -> _Names:
    return read_table("names", _Names)


def make(templates: Sequence[str], rng: random.Random) -> str:
    """One of the templates with its slots filled, from left to right."""
    template = templates[0] if len(templates) == 1 else rng.choice(templates)
    parts = Formatter().parse(template)
    return "".join(text + (_fill(slot, form or "", rng) if slot else "") for text, slot, form, _ in parts)


def _fill(slot: str, form: str, rng: random.Random) -> str:
    """`form`: how a number is written, as `format` has it."""
    if bounds := _RANGE.fullmatch(slot):
        return format(rng.randint(*map(int, bounds.groups())), form)
    if "|" in slot:
        return rng.choice(slot.split("|"))
    return _MADE[slot](rng) if slot in _MADE else make(_names().makers[slot], rng)


def word(rng: random.Random) -> str:
    """A capitalised invented word of two or three syllables, such as Zorvex."""
    names = _names()
    longer = rng.choice(names.vowels) + rng.choice(names.middles) if rng.random() < 0.5 else ""
    start = rng.choice(names.onsets) + longer + rng.choice(names.vowels) + rng.choice(names.middles)
    return (start + rng.choice(names.codas)).capitalize()


def _hours(rng: random.Random) -> str:
    opens, closes = rng.choice(("00", "15", "30", "45")), rng.choice(("00", "30"))
    return f"{rng.randint(5, 11)}:{opens} to {rng.randint(15, 23)}:{closes}"


_MADE: dict[str, Callable[[random.Random], str]] = {"word": word, "hours": _hours}
"""What no template can say."""


def distinct(templates: Sequence[str], count: int, split: Split, rng: random.Random) -> list[str]:
    """`count` different names whose split is `split`: so no name is in two splits."""
    names: dict[str, None] = {}
    while len(names) < count:
        name = make(templates, rng)
        if split_of(name) == split:
            names[name] = None
    return list(names)
