"""The lexical half against plain BM25, however facts are spread over segments."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.index import impacts, lexical
from kb.index.impacts import rounded
from kb.index.lexical import Corpus, Living, Matched
from kb.index.postings import Postings, joined
from kb.index.terms import question_of
from tests.kb.reference import bm25

WORDS = st.sampled_from(
    ["zorvex", "zorvax", "zorvx", "Mara", "leads", "lead", "the", "XK-4471", "4471", "xk", "日本語", "depot", "depots"]
)
TEXTS = st.lists(WORDS, max_size=8).map(" ".join)


@st.composite
def corpora(draw: st.DrawFn) -> list[tuple[list[str], list[bool]]]:
    """Parts: texts, and which of them live."""
    texts = st.lists(TEXTS, min_size=1, max_size=6)
    parts = draw(st.lists(texts, min_size=1, max_size=4))
    return [(part, draw(st.lists(st.booleans(), min_size=len(part), max_size=len(part)))) for part in parts]


def living(texts: list[str], alive: list[bool]) -> Living:
    return Living(Postings.of(texts), None if all(alive) else np.array(alive))


@given(corpora(), TEXTS, st.sampled_from([0, 16]))
def test_scores_are_those_of_plain_bm25(
    parts: list[tuple[list[str], list[bool]]], question: str, looked_up: int
) -> None:
    expected = bm25(
        {
            f"{part} {row}": text
            for part, (texts, alive) in enumerate(parts)
            for row, text in enumerate(texts)
            if alive[row]
        },
        question,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexical, "_LOOKED_UP", looked_up)
        found = Corpus([living(*part) for part in parts]).relevances(question_of(question))
    for part, (relevance, (_, alive)) in enumerate(zip(found, parts, strict=True)):
        for row, lives in enumerate(alive):
            score, covered = expected.get(f"{part} {row}", (0.0, 0.0))
            assert lives or (score, covered) == (0.0, 0.0)
            found_score, found_covered = (float(one[0]) for one in relevance.of(np.array([row])))
            assert abs(found_score - score) < 1e-6  # 32-bit sums
            assert abs(found_covered - covered) < 1e-12
            assert 0 <= found_score <= 1
            assert 0 <= found_covered <= 1


@given(corpora(), TEXTS)
def test_no_score_depends_on_how_rows_are_spread(parts: list[tuple[list[str], list[bool]]], question: str) -> None:
    asked = question_of(question)
    spread = Corpus([living(*part) for part in parts]).relevances(asked)
    alive = [text for texts, lives in parts for text, one in zip(texts, lives, strict=True) if one]
    (together,) = Corpus([Living(Postings.of(alive), None)]).relevances(asked)
    kept = [np.array(lives) for _, lives in parts]
    scattered = [one.scores()[mask] for one, mask in zip(spread, kept, strict=True)]
    assert np.array_equal(np.concatenate(scattered), together.scores())
    for half in (0, 1):
        apart = [one.of(np.flatnonzero(mask))[half] for one, mask in zip(spread, kept, strict=True)]
        assert np.array_equal(np.concatenate(apart), together.of(np.arange(len(alive)))[half])
    assert {one.mass for one in spread} == {together.mass}


@given(corpora(), st.randoms(use_true_random=False))
def test_joined_columns_are_those_of_the_texts_that_are_kept(
    parts: list[tuple[list[str], list[bool]]], source: Any
) -> None:
    kept = [text for texts, lives in parts for text, one in zip(texts, lives, strict=True) if one]
    places = list(range(len(kept)))
    source.shuffle(places)
    left = iter(places)
    moved = [
        (Postings.of(texts), np.array([next(left) if one else -1 for one in lives], np.int32)) for texts, lives in parts
    ]
    in_order = [text for _, text in sorted(zip(places, kept, strict=True))]
    assert_same(joined(moved, len(kept)), Postings.of(in_order))


def assert_same(one: Postings, other: Postings) -> None:
    for name in ("keys", "starts", "rows", "counts", "lengths"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
    assert np.array_equal(one.spellings.starts, other.spellings.starts)
    assert np.array_equal(one.spellings.codes, other.spellings.codes)


def test_nothing_is_found_in_nothing() -> None:
    assert Corpus([]).relevances(question_of("zorvex")) == []
    (of_empty,) = Corpus([Living(Postings.of([""]), None)]).relevances(question_of("zorvex"))
    assert not of_empty.scores().any()


@given(corpora(), TEXTS)
def test_the_same_scores_are_summed_of_all_rows_and_of_some(
    parts: list[tuple[list[str], list[bool]]], question: str
) -> None:
    for one in Corpus([living(*part) for part in parts]).relevances(question_of(question)):
        rows = np.arange(len(one.part.postings.lengths))
        assert np.array_equal(np.minimum(one.scores() / (one.mass or 1.0), 1.0), one.of(rows)[0])


@given(corpora(), TEXTS, st.integers(1, 9), st.integers(1, 3), st.data())
def test_the_best_rows_are_those_of_the_greatest_scores_ties_by_row(
    parts: list[tuple[list[str], list[bool]]], question: str, count: int, times: int, data: st.DataObject
) -> None:
    # Repeated, so that there are enough rows for common words to be passed over.
    some = [living(texts * times, alive * times) for texts, alive in parts]
    if data.draw(st.booleans(), "filtered"):
        lots = [data.draw(st.lists(st.booleans(), min_size=len(a) * times, max_size=len(a) * times)) for _, a in parts]
        wanted = [
            np.array(lot) if one.mask is None else np.array(lot) & one.mask for one, lot in zip(some, lots, strict=True)
        ]
        some = [replace(one, wanted=mask) for one, mask in zip(some, wanted, strict=True)]
    for one in Corpus(some).relevances(question_of(question)):
        scores = one.scores()
        ranked = sorted(np.flatnonzero(scores).tolist(), key=lambda row: (-scores[row], row))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lexical, "FEW", data.draw(st.sampled_from([-1, 2, 6, 4096]), "few"))
            patch.setattr(lexical, "_RARE", data.draw(st.sampled_from([0, 2, 6, 512]), "rare"))
            patch.setattr(impacts, "KEPT", data.draw(st.sampled_from([1, 4096]), "kept"))
            patch.setattr(lexical, "_BLOCK", data.draw(st.sampled_from([1, 3, 1024]), "block"))
            assert sorted(one.best(count).tolist()) == sorted(ranked[:count])


def test_words_that_decide_nothing_are_not_gone_through() -> None:
    texts = ["zorvex depot"] * 40 + ["depot"] * 5000
    (found,) = Corpus([Living(Postings.of(texts), None)]).relevances(question_of("zorvex depot"))
    gone_through = []

    def watched(term: Matched, places: Any) -> Any:
        if places is None:
            gone_through.append(len(term.rows))
        return term.impacts(places)

    terms = [term._replace(impacts=partial(watched, term)) for term in found.terms]
    assert replace(found, terms=terms).best(8).tolist() == list(range(8))
    assert gone_through == []  # not even the rare one's: its rows are looked up


@given(st.floats(0.01, 1e6))
def test_the_mean_length_is_hardly_rounded(mean: float) -> None:
    assert 0.978 < rounded(mean) / mean < 1.023
    assert rounded(rounded(mean)) == rounded(mean)


def test_impacts_follow_the_mean_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impacts, "KEPT", 1)
    postings = Postings.of(["zorvex zorvex leads", "zorvex"])
    short, long = (postings.impacts.of(mean, slice(None)) for mean in (1.0, 8.0))
    assert (short < long).all()
    assert np.array_equal(postings.impacts.of(1.0, slice(None)), short)
    for mean in (1.0, 8.0, 8.0):
        for term in map(postings.of_term, range(2)):
            assert np.array_equal(postings.impacts.of_term(mean, term), postings.impacts.of(mean, term))
        assert postings.impacts.of(mean, slice(None)).max() <= postings.impacts.bound(mean)
