"""What a question means that points back: "Does it stop there?" is looked up as "Amber Line: Does it stop there?".

By English pointing words and by names (words with a capital or a digit); a question without either, and one in another
language, is looked up as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_TURNS = 4
"""So far back a chain of such questions is followed."""
MAX_CHARACTERS = 400
"""A longer turn explains itself, and says nothing short about what is meant."""

SHORT_WORDS = 4
"""A question that goes on ("And at rush hour?") with no more words of content is about what was asked before."""

_PRONOUN = re.compile(
    r"\b(?:it|its|he|she|they|his|her|hers|him|them|their|theirs)\b|\b(?:this|that|these|those|there)\b(?=\W*$)", re.I
)
_GOES_ON = re.compile(r"^\W*(?:and|or|but|so|also|(?:what|how) about|what else)\b", re.I)
_STOP_WORD = re.compile(r"an?|the|and|or|but|so|also|what|how|about|for|of|on|in|at|to|by|with|is|are|then", re.I)
_OPENER = re.compile(
    r"""an?|the|and|or|but|so|also|what|how|about|who|whom|whose|when|where|which|why|is|are|was|were|do|does|did|can
    |could|will|would|shall|should|may|might|has|have|had|tell|please|explain|list|describe|say|give|show|name|in|on|at
    |for|of|from|to|by|with|if|there|this|that|these|those|its?|his|he|she|they|her|their|i|we|you|my|our|your|thanks
    """,
    re.I | re.X,
)
"""May begin a sentence with a capital without being a name."""
_WORD = re.compile(r"[^\W_](?:[\w.'’&-]*[^\W_])?")
_LINKS = frozenset({"of", "the", "de", "van", "von", "and", "&"})
"""May stand within a name."""


def in_context(said: Sequence[str]) -> str:
    """The last of the things the user said, as retrieval is to look it up."""
    meant = said[max(0, len(said) - MAX_TURNS)]
    for turn in said[max(0, len(said) - MAX_TURNS) + 1 :]:
        meant = _meant(meant, turn)
    return meant


def _meant(before: str, turn: str) -> str:
    if max(len(before), len(turn)) > MAX_CHARACTERS:
        return turn
    names, goes_on = _names(turn), bool(_GOES_ON.search(turn))
    if _points_back(turn, names) or (goes_on and not names and _is_short(turn)):
        return f"{', '.join(_names(before)) or before}: {turn}"
    if goes_on and names and _is_elliptic(before, turn, names):
        exchanged = _exchanged(before, names)
        return exchanged if len(exchanged) <= MAX_CHARACTERS else turn
    return turn


def _points_back(turn: str, names: list[str]) -> bool:
    """A pronoun behind a name may mean that name."""
    pronoun = _PRONOUN.search(turn)
    return pronoun is not None and not (names and turn.find(names[0]) < pronoun.start())


def _is_short(turn: str) -> bool:
    return sum(not _STOP_WORD.fullmatch(word) for word in _WORD.findall(turn)) <= SHORT_WORDS


def _exchanged(before: str, names: list[str]) -> str:
    """The question before, asked of something else: of a thing that shares a word with it, if there is one."""
    known = _names(before)
    if not known:
        return f"{before} {names[0]}"
    words = {word.casefold() for word in names[0].split()}
    alike = [name for name in known if words & {word.casefold() for word in name.split()}]
    # As a whole: "A" is no part of "Are".
    return re.sub(rf"(?<!\w){re.escape((alike or known)[0])}(?!\w)", lambda _: names[0], before)


def _is_elliptic(before: str, turn: str, names: list[str]) -> bool:
    """Nothing but names, and words that need not be said or were said before."""
    said = {word.casefold() for word in [*_WORD.findall(before), *(word for name in names for word in name.split())]}
    return all(word.casefold() in said or _STOP_WORD.fullmatch(word) for word in _WORD.findall(turn))


def _names(text: str) -> list[str]:
    """Runs of words with a capital or a digit, in order. The first word of a sentence counts only within a run that
    goes on."""
    found: list[str] = []
    run: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        word, between = match.group(), text[end : match.start()]
        if run and between.strip():
            found += _named(run)
            run = []
        starts_sentence = not text[:end].strip() or bool(re.search(r"[.?!:]\s", between))
        if (_is_name(word) and not (starts_sentence and _OPENER.fullmatch(word))) or (run and word in _LINKS):
            run.append(word)
        elif run:
            found += _named(run)
            run = []
        end = match.end()
    return list(dict.fromkeys([*found, *_named(run)]))


def _is_name(word: str) -> bool:
    return (word[0].isupper() and word != "I") or any(character.isdigit() for character in word)


def _named(run: list[str]) -> list[str]:
    while run and run[-1] in _LINKS:
        run = run[:-1]
    return [" ".join(run)] if run else []
