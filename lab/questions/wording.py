"""How questions are put and replies are styled: varied, so that φ learns no template."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Annotated

from lab.questions.question import Split
from lab.questions.tables import Table, filled_with, read_table

SHORT_SHARE = 0.25
IT_IS_SHARE = 0.15
"""The rest of the replies restate the fact in a sentence."""
SAID_SHARE = 0.5
"""Share of the short replies whose question asks for a short one; of the sentences a quarter as many."""

_ENDS = (".", "?", "!", "…", "_")


class _Styles(Table):
    briefly: tuple[Annotated[str, filled_with("")], ...]
    """Ask for a short reply."""
    at_length: tuple[Annotated[str, filled_with("")], ...]
    """Ask for a sentence."""


@cache
def _styles() -> _Styles:
    return read_table("styles", _Styles)


def choose(wordings: Sequence[str], split: Split, rng: random.Random) -> str:
    """One of the wordings. The last quarter (at least one of several) is kept from train and dev."""
    if split == "test" or len(wordings) < 2:
        return rng.choice(wordings)
    return rng.choice(wordings[: len(wordings) - max(1, len(wordings) // 4)])


def styled(
    question: str, *, sentence: str, value: str, it_is: str, split: Split, rng: random.Random
) -> tuple[str, str]:
    """The question, which may now ask for a style, and the reply in one of three styles."""
    drawn = rng.random()
    whole = question if question.endswith(_ENDS) else f"{question} …"
    if drawn < SHORT_SHARE:
        asks = rng.random() < SAID_SHARE
        return choose(_styles().briefly, split, rng).format(whole) if asks else question, value
    if drawn < SHORT_SHARE + IT_IS_SHARE:
        return question, it_is
    asks = rng.random() < SAID_SHARE / 4
    return choose(_styles().at_length, split, rng).format(whole) if asks else question, sentence


def sentence_case(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def ended(text: str) -> str:
    """The text with a full stop, unless it ends in a mark already."""
    return text if text.endswith((".", "!", "?", ".”", '."')) else f"{text}."


def possessive(name: str) -> str:
    return f"{name}'" if name.endswith("s") else f"{name}'s"
