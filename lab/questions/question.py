"""Questions about facts: what φ is trained on and judged by."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Question:
    """What a user might ask, the facts that answer it, and a good reply, which contains `answers[0]`.

    An alternative in `answers` may have parts joined by " & ": a right reply contains each of them (`parts_of`).
    """

    dataset: str
    subject: str
    """The entity asked about."""
    relation: str
    """What is asked of it; "" where the set has no relations."""
    text: str
    answers: tuple[str, ...]
    """Any of them in a reply counts as right."""
    reply: str
    """In the style that the question asks for, if it asks for one; "": what a good one is, the set does not say."""
    facts: tuple[str, ...]
    """Texts of the gold facts, as they would stand in the knowledge base."""
    numeric: bool
    """The answer is a number, date or identifier: it must be exact."""


@dataclass(frozen=True, slots=True)
class Fact:
    text: str
    subject: str
    relation: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Questions and everything that can be mounted for them; every question's facts are in `facts`."""

    dataset: str
    questions: tuple[Question, ...]
    facts: tuple[Fact, ...]
    """Texts are distinct."""


def parts_of(answer: str) -> list[str]:
    """What a reply must contain for this answer: "Mara Lind & Jon Vell" has two parts, most have one."""
    return answer.split(" & ")


def split_of(subject: str) -> Split:
    """80 % train, 10 % dev, 10 % test, by a hash of the subject without case, accents, article and punctuation."""
    digest = hashlib.sha256(_normalised(subject).encode("utf-8")).digest()
    bucket = int.from_bytes(digest[:4], "big") % 10
    return "train" if bucket < 8 else "dev" if bucket == 8 else "test"


def _normalised(subject: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", subject.casefold()) if not unicodedata.combining(c))
    words = "".join(c if c.isalnum() else " " for c in plain).split()
    return " ".join(words[1:] if words[:1] == ["the"] and len(words) > 1 else words)
