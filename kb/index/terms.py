"""From text to the terms that the lexical half of the index counts.

Words are runs of letters, compared without case, accents and width. Codes and numbers are terms as a whole and in their
parts: XK-4471 is found by XK-4471, xk4471, XK and 4471. Of scripts that are written without spaces every two
neighbouring characters are a term.
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import regex

MAX_QUESTION_CHARACTERS = 4096
MAX_QUESTION_TERMS = 64
"""Of a longer question the first ones count: the encoder does not read further either."""
LEAST_SPELLED = 4
"""Letters of a word that may be recognised although it is misspelled."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+"
_TOKEN = regex.compile(rf"(?V1)(?P<run>[{_UNSPACED}]+)|{_WORD}(?:[-‐‑_./:]{_WORD})*")
_PART = regex.compile(r"\p{N}+|[\p{L}\p{M}]+")
_THOUSANDS = regex.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ACCENT = regex.compile("[\u0300-\u036f]+")

# What English questions are made of, whatever they are about. In a small namespace such words are as rare as names.
_FUNCTION_WORD = regex.compile(
    "a|about|an|and|any|are|as|at|be|been|but|by|can|could|d|did|do|does|for|from|give|had|has|have|he|her|his|how|i|if|in|"
    "into|is|it|its|just|let|ll|m|many|may|me|much|my|name|of|on|one|or|our|please|re|s|say|says|she|should|so|some|t|tell|"
    "than|that|the|their|them|then|there|these|they|this|to|us|ve|was|we|were|what|when|where|which|who|whom|whose|why|"
    "will|with|would|you|your"
)


class Term(NamedTuple):
    """A term of a question."""

    key: int
    spelling: tuple[int, ...]
    """As of `spelling_of`."""


def words_of(text: str) -> list[str]:
    """The terms of a text in its order, repeats included."""
    words: list[str] = []
    for token in _TOKEN.finditer(_folded(text)):
        word = token.group()
        if token["run"]:
            words += map("".join, pairwise(word)) if len(word) > 1 else (word,)
        elif word.isascii() and word.isalpha():
            words.append(word)
        else:
            words += _parts_of(word)
    return words


def telling_words_of(text: str) -> list[str]:
    """Those of them that are no English function words."""
    return [word for word in words_of(text) if not _FUNCTION_WORD.fullmatch(word)]


def question_of(text: str) -> tuple[Term, ...]:
    """What is looked up for a question: its terms, once each, without function words unless there are no others."""
    words = list(dict.fromkeys(words_of(text[:MAX_QUESTION_CHARACTERS])))
    telling = [word for word in words if not _FUNCTION_WORD.fullmatch(word)] or words
    return tuple(Term(key_of(word), spelling_of(word)) for word in telling[:MAX_QUESTION_TERMS])


def key_of(word: str) -> int:
    """64 bits that stand for the word, today and tomorrow."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def spelling_of(word: str) -> tuple[int, ...]:
    """Its pairs of neighbouring letters, ends included, as distinct 16-bit codes, ascending. Few pairs share a code.

    Short words and those with digits have none.
    """
    if len(word) < LEAST_SPELLED or any(map(str.isdecimal, word)):
        return ()
    letters = (0, *map(ord, word), 0)
    return tuple(sorted({(31 * a + b) & 0xFFFF for a, b in pairwise(letters)}))


def _parts_of(token: str) -> list[str]:
    """Of a word with digits, marks or letters beyond a to z: letters and digits apart, and a code as a whole too."""
    parts: list[str] = _PART.findall(token)
    initials = all(len(part) == 1 for part in parts)
    code = initials or any(map(str.isdecimal, token))
    return [*parts, "".join(parts)] if code and len(parts) > 1 else parts


def _folded(text: str) -> str:
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        text = unicodedata.normalize("NFC", _ACCENT.sub("", decomposed))
    folded: str = _THOUSANDS.sub("", text.casefold())
    return folded
