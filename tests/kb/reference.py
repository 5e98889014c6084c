"""BM25 over the facts that live, the hybrid search over both scores, filters: plain Python, as a textbook has them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from kb.facts import SearchMethod
from kb.index import lexical
from kb.index.impacts import K1, B, rounded
from kb.index.search import BM25_WEIGHT, COVERED_WEIGHT
from kb.index.spellings import LEAST_ALIKE
from kb.index.terms import key_of, question_of, spelling_of, words_of

Scored = dict[str, tuple[float, float]]

_VALUES = st.sampled_from([None, True, False, 0, 1, 1.0, 2.5, -1, 2**63, 2.0**63, 2**63 + 1, "", "1", "a", "b", "ä"])
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "n": _VALUES | st.lists(_VALUES, max_size=3),
        "town": st.sampled_from(["Velm", "Ostra"]),
        "deep": st.sampled_from([{}, {"x": 1}, {"x": {"y": "a"}}, [{"x": None}, {"x": "b"}], [[1], []]]),
    },
)
_ORDERABLE = _VALUES.filter(lambda value: isinstance(value, (int, float, str)) and not isinstance(value, bool))
_CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("eq", "ne"), _VALUES),
        **dict.fromkeys(("gt", "gte", "lt", "lte"), _ORDERABLE),
        "in": st.lists(_VALUES, max_size=3),
        "exists": st.booleans(),
    },
).filter(bool)
FILTERS = st.recursive(
    st.dictionaries(st.sampled_from(["n", "town", "deep", "deep.x", "deep.x.y", "none"]), _CONDITIONS, max_size=2),
    lambda inner: st.fixed_dictionaries(
        {}, optional={**dict.fromkeys(("and", "or"), st.lists(inner, min_size=1, max_size=3)), "not": inner}
    ),
    max_leaves=4,
)


def satisfies(metadata: Any, wanted: Any) -> bool:
    """Whether metadata satisfies a filter, both as JSON has them."""
    return all(_holds(metadata, name, inner) for name, inner in wanted.items())


def _holds(metadata: Any, name: str, inner: Any) -> bool:
    if name == "and":
        return all(satisfies(metadata, one) for one in inner)
    if name == "or":
        return any(satisfies(metadata, one) for one in inner)
    if name == "not":
        return not satisfies(metadata, inner)
    found = _found(metadata, name.split("."))
    return all(_compares(found, operator, operand) for operator, operand in inner.items())


def _found(value: Any, path: list[str]) -> list[Any]:
    """Everything that stands at the end of the path; of lists their items, besides themselves."""
    if isinstance(value, list):
        inner = [one for item in value for one in _found(item, path)]
        return inner if path else [value, *inner]
    if not path:
        return [value]
    return _found(value[path[0]], path[1:]) if isinstance(value, dict) and path[0] in value else []


def _compares(found: list[Any], operator: str, operand: Any) -> bool:
    if operator == "exists":
        return bool(found) is operand
    if operator == "ne":
        return not _compares(found, "eq", operand)
    if operator == "in":
        return any(_compares(found, "eq", one) for one in operand)
    by = {"eq": "__eq__", "gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}[operator]
    return any(
        _kind(one) == _kind(operand)
        and getattr(Fraction(one) if _kind(one) == "number" else one, by)(
            Fraction(operand) if _kind(one) == "number" else operand
        )
        for one in found
    )


def _kind(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if number else type(value).__name__


def alike(word_spelling: Sequence[int], frequencies: Mapping[str, int]) -> list[tuple[float, str]]:
    wanted = set(word_spelling)
    found = []
    for word in frequencies:
        pairs = set(spelling_of(word))
        likeness = 2 * len(wanted & pairs) / (len(wanted) + len(pairs))
        if likeness >= LEAST_ALIKE:
            found.append((likeness, word))
    return sorted(found, key=lambda one: (-one[0], key_of(one[1])))[: lexical.MOST_ALIKE]


def bm25(texts: Mapping[str, str], question: str) -> Scored:
    """id -> (BM25 over its greatest value, share of the question that is covered)."""
    counts = {fact_id: Counter(words_of(text)) for fact_id, text in texts.items()}
    lengths = {fact_id: sum(count.values()) for fact_id, count in counts.items()}
    mean = rounded(sum(lengths.values()) / max(len(texts), 1))
    frequencies = Counter(word for count in counts.values() for word in count)
    words = {key_of(word): word for word in frequencies}

    def idf(frequency: int) -> float:
        return math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))

    scores, covered = dict.fromkeys(texts, 0.0), dict.fromkeys(texts, 0.0)
    mass, misspelled = 0.0, 0
    for term in question_of(question):
        word = words.get(term.key)
        mass += idf(frequencies[word] if word else 0)
        looked_up = [(1.0, word)] if word else []
        if word is None and term.spelling and misspelled < lexical.MOST_MISSPELLED:
            misspelled += 1
            looked_up = alike(term.spelling, frequencies)
        for likeness, one in looked_up:
            weight = likeness * idf(frequencies[one])
            for fact_id, count in counts.items():
                if count[one]:
                    norm = K1 * (1 - B + B * lengths[fact_id] / mean)
                    scores[fact_id] += weight * count[one] / (count[one] + norm)
                    covered[fact_id] += weight
    return {
        fact_id: (min(scores[fact_id] / mass, 1.0), min(covered[fact_id] / mass, 1.0)) if mass else (0.0, 0.0)
        for fact_id in texts
    }


def ranked(texts: Mapping[str, str], scores: Mapping[str, float], question: str, method: SearchMethod) -> list[Any]:
    """(id, inner product, share covered), best first; `scores` are the inner products."""
    found = bm25(texts, question)
    keys = {
        "dense": lambda one: scores[one],
        "lexical": lambda one: found[one][0],
        "hybrid": lambda one: scores[one] + BM25_WEIGHT * found[one][0] + COVERED_WEIGHT * found[one][1],
    }
    candidates = [one for one in texts if method != "lexical" or found[one][0]]
    order = sorted(candidates, key=lambda one: (-round(keys[method](one), 9), one))
    return [(one, round(scores[one], 9), round(found[one][1], 9)) for one in order]
