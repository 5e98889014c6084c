"""How a reply's words agree with the mounted facts: linear in what is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kan.knowledge.evidence import Agreement
from kb.index.terms import telling_words_of

MAX_CHARACTERS = 16_384
"""So much is read of a reply, of a question, and of the mounted facts together, in their order."""
REACH = 4.0
"""So many words further (of those that tell something), a word counts 1/e as much."""
ABOUT_ITSELF = frozenset({"answer", "answers", "fact", "facts", "according", "stated", "mentioned"})
"""Words by which a reply says that it is one."""


class MountedWords:
    """Words of what was asked, and of the facts that are mounted for it."""

    def __init__(self, question: str, facts: Sequence[str]) -> None:
        """`facts`: texts, best first."""
        self._asked = frozenset(telling_words_of(question[:MAX_CHARACTERS]))
        # Of words that stand as near to one word as they can: on both sides of it.
        self._nearest = math.fsum(_weight((place + 1) // 2) for place in range(1, len(self._asked) + 1))
        self._facts: list[list[str]] = []
        room = MAX_CHARACTERS
        for text in facts:
            self._facts.append(telling_words_of(text[:room]))
            room -= min(room, len(text))
        self._of_fact = [frozenset(words) for words in self._facts]
        self._mounted = frozenset().union(*self._of_fact)

    def agreement(self, reply: str) -> Agreement:
        """Each word counts once."""
        own = frozenset(telling_words_of(reply[:MAX_CHARACTERS])) - self._asked - ABOUT_ITSELF
        agreeing = own & self._mounted
        if not agreeing:
            return Agreement(0.0, 0.0)
        shared = [len(agreeing & words) for words in self._of_fact]
        fact = self._facts[shared.index(max(shared))]
        apart = _apart(fact, agreeing)
        near = math.fsum(_weight(apart[word]) for word in self._asked if word in apart)
        return Agreement(len(agreeing) / len(own), min(1.0, near / self._nearest) if self._asked else 0.0)


def _weight(apart: int) -> float:
    """Of a word so far away."""
    return math.exp(-apart / REACH)


def _apart(words: Sequence[str], wanted: frozenset[str]) -> dict[str, int]:
    """How far each of `words` is from the nearest of the `wanted`; one of them at least is there."""
    apart: dict[str, int] = {}
    for ordered in (words, words[::-1]):
        since: int | None = None
        for word in ordered:
            since = 0 if word in wanted else None if since is None else since + 1
            if since is not None:
                apart[word] = min(since, apart.get(word, since))
    return apart
