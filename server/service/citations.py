"""Which mounted fact a stretch of a reply was taken from: by the words that both have, and by what was attended to.

Sentence by sentence: the fact that has most of the sentence's own words (those that tell something, and that the
question does not have) is cited where they stand. A word counts less the more of the mounted facts have it; between
facts that have them alike, the one whose words the question has, then the one that was attended to most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import regex

from kb.index.terms import telling_words_of
from server.service.agreement import ABOUT_ITSELF, MAX_CHARACTERS

LEAST_SHARE = 0.5
"""Of a sentence's own words that the cited fact has at least."""
MAX_SENTENCES = 256
"""Of one reply; further ones cite nothing."""
_CHUNK = regex.compile(r"\S+")
_WORDLIKE = regex.compile(r"[\p{L}\p{M}\p{N}]")
_SENTENCE_END = regex.compile(r"[.!?。！？][\"'”’)\]»]*$")


class Citation(NamedTuple):
    """`reply[start:end]` says what a fact says."""

    start: int
    end: int
    fact: int
    """Its place among the mounted ones."""


class _Word(NamedTuple):
    """What stands between two spaces, without the punctuation around it."""

    start: int
    end: int
    own: frozenset[str]
    """Its terms that count."""


class CitedFacts:
    """The facts that are mounted for a question."""

    def __init__(self, question: str, facts: Sequence[str]) -> None:
        """`facts`: texts, best first. Of them, and of the question, MAX_CHARACTERS are read."""
        self._asked = frozenset(telling_words_of(question[:MAX_CHARACTERS]))
        self._facts: list[frozenset[str]] = []
        room = MAX_CHARACTERS
        for text in facts:
            self._facts.append(frozenset(telling_words_of(text[:room])))
            room -= min(room, len(text))
        self._holders = Counter(word for words in self._facts for word in words)

    def citations(self, reply: str, attention: Sequence[float] | None = None) -> list[Citation]:
        """In the order of the reply; offsets are in characters. `attention`: each fact's share, where it is told."""
        sentences = islice(_sentences(self._words(reply[:MAX_CHARACTERS]), reply), MAX_SENTENCES)
        found = (self._cited(sentence, attention) for sentence in sentences)
        return [one for one in found if one is not None]

    def _words(self, reply: str) -> Iterator[_Word]:
        for chunk in _CHUNK.finditer(reply):
            inside = [match.start() for match in _WORDLIKE.finditer(chunk.group())]
            own = frozenset(telling_words_of(chunk.group())) - self._asked - ABOUT_ITSELF
            if inside:
                yield _Word(chunk.start() + inside[0], chunk.start() + inside[-1] + 1, own)

    def _cited(self, sentence: Sequence[_Word], attention: Sequence[float] | None) -> Citation | None:
        own = frozenset().union(*(word.own for word in sentence))
        ranked = [
            (self._weight(own & words), self._weight(self._asked & words), attention[fact] if attention else 0.0, -fact)
            for fact, words in enumerate(self._facts)
        ]
        if not own or not ranked:
            return None
        fact = -max(ranked)[-1]
        shared = own & self._facts[fact]
        if not shared or len(shared) < LEAST_SHARE * len(own):
            return None
        taken = [word for word in sentence if word.own & shared]
        return Citation(taken[0].start, taken[-1].end, fact)

    def _weight(self, words: frozenset[str]) -> float:
        return math.fsum(1 / self._holders[word] for word in words)


def _sentences(words: Iterator[_Word], reply: str) -> Iterator[list[_Word]]:
    """Cut where a word ends one, or its line."""
    sentence: list[_Word] = []
    for word in words:
        if sentence and _ends(reply[sentence[-1].start : word.start]):
            yield sentence
            sentence = []
        sentence.append(word)
    if sentence:
        yield sentence


def _ends(text: str) -> bool:
    """Of a word with what follows it, up to the next one."""
    return "\n" in text or any(_SENTENCE_END.search(chunk) for chunk in text.split())
