"""Plain questions about encyclopedia passages, made from what their first sentences say. One passage is one fact."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.questions.question import Fact, Pool, Question, Split, split_of
from lab.questions.rows import read_rows
from lab.questions.squad import FACTS_PER_QUESTION
from lab.questions.wording import ended, styled

FILE = "wiki_passages.jsonl.gz"
WORDS = (40, 110)
"""Of a passage: what MiniLM reads whole, and a fact may be long."""
MAX_TITLE_WORDS = 6

_DATE = r"(\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4})"
_WORD = r"(?:[A-Z]\.|[A-Z][\w’'-]+)"
_NAME = rf"({_WORD}(?: (?:{_WORD}|de|van|von|of|the)){{0,4}})"
_PERSON = rf"({_WORD}(?: (?:{_WORD}|de|van|von)){{0,3}} [A-Z][\w’'-]+)"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a sentence says, the question for it, and a reply."""

    relation: str
    pattern: re.Pattern[str]
    """Its one group is the answer."""
    question: str
    reply: str
    numeric: bool = False


_KINDS = (
    _Kind("born", re.compile(rf"\((?:[^()]*;)? ?(?:born )?{_DATE}"), "When was {} born?", "{} was born on {}.", True),
    _Kind("died", re.compile(rf"\d{{4}} ?[–-] ?{_DATE}\)"), "When did {} die?", "{} died on {}.", True),
    _Kind("director", re.compile(rf"directed by {_PERSON}"), "Who directed {}?", "{} was directed by {}."),
    _Kind("writer", re.compile(rf"\bwritten by {_PERSON}"), "Who wrote {}?", "{} was written by {}."),
    _Kind("founded", re.compile(r"\bfounded in (\d{4})"), "When was {} founded?", "{} was founded in {}.", True),
    _Kind("established", re.compile(r"established in (\d{4})"), "When was {} established?", "It was in {1}.", True),
    _Kind("place", re.compile(rf"\blocated (?:in|near) (?:the )?{_NAME}"), "Where is {} located?", "{} is in {}."),
    _Kind("birthplace", re.compile(rf"\bborn in {_NAME}"), "Where was {} born?", "{} was born in {}."),
    _Kind("school", re.compile(rf"\b(?:graduated from|educated at|attended) (?:the )?{_NAME}"), "Where did {} study?",
          "{} studied at {}."),
)  # fmt: skip


def load(directory: Path, split: Split, questions: int, seed: int) -> Pool:
    """A pool of up to `questions` questions, their passages and others of the same split. Raises DataError."""
    rng = random.Random(f"encyclopedia:{split}:{seed}")
    passages = dict(_passages(directory, split))
    found = [(title, text, kind, value) for text, title in passages.items() for kind, value in _said(title, text)]
    asked = rng.sample(found, min(questions, len(found)))
    facts = {text: title for title, text, _, _ in asked}
    for text in rng.sample(list(passages), len(passages)):
        if len(facts) >= questions * FACTS_PER_QUESTION:
            break
        facts.setdefault(text, passages[text])
    return Pool(
        "encyclopedia",
        tuple(_question(title, text, kind, value, split, rng) for title, text, kind, value in asked),
        tuple(Fact(text, title, "") for text, title in facts.items()),
    )


def _passages(directory: Path, split: Split) -> Iterator[tuple[str, str]]:
    """Text and title of those that say whom or what they are about."""
    for row in read_rows(directory / FILE, ("text",)):
        title, _, body = row["text"].partition("\n")
        title = re.sub(r" \([^)]*\)$", "", title.strip())
        text = " ".join(re.sub(r"\( ", "(", body).split())
        short = WORDS[0] <= len(text.split()) <= WORDS[1] and len(title.split()) <= MAX_TITLE_WORDS
        if short and title in text[: 2 * len(title) + 20] and split_of(title) == split:
            yield text, title


def _said(title: str, text: str) -> Iterator[tuple[_Kind, str]]:
    """What of our kinds the passage says once only, so that the answer is plain."""
    for kind in _KINDS:
        values = {match.group(1).strip(" .,'") for match in kind.pattern.finditer(text)}
        if len(values) == 1 and (value := values.pop()) not in title:
            yield kind, value


def _question(title: str, text: str, kind: _Kind, value: str, split: Split, rng: random.Random) -> Question:
    question, reply = styled(
        kind.question.format(title),
        sentence=kind.reply.format(title, value),
        value=value,
        it_is=ended(f"It is {value}"),
        split=split,
        rng=rng,
    )
    return Question("encyclopedia", title, kind.relation, question, (value,), reply, (text,), kind.numeric)
