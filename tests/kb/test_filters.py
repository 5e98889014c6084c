"""What is no filter is refused by its path; the bounds hold. What filters find is in test_model.py."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.filters import MAX_CLAUSES, MAX_DEPTH, MAX_VALUES, InvalidFilter, parse_filter, read_filter
from kb.index import attributes
from kb.index.attributes import Attributes, joined
from tests.kb.reference import FILTERS, METADATA, satisfies


def nested(levels: int) -> Any:
    return {"not": nested(levels - 1)} if levels else {"a": {"eq": 1}}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([], "filter"),
        (None, "filter"),
        ({"town": "Velm"}, "filter.town"),
        ({"town": {}}, "filter.town"),
        ({"town": {"near": "Velm"}}, "filter.town.near"),
        ({"": {"eq": 1}}, "filter."),
        ({"town": {"eq": ["Velm"]}}, "filter.town.eq"),
        ({"town": {"eq": "x" * 5000}}, "filter.town.eq"),
        ({"town": {"in": "Velm"}}, "filter.town.in"),
        ({"town": {"in": ["Velm", {}]}}, "filter.town.in[1]"),
        ({"year": {"gt": None}}, "filter.year.gt"),
        ({"year": {"lte": True}}, "filter.year.lte"),
        ({"year": {"lt": float("inf")}}, "filter.year.lt"),
        ({"year": {"exists": 1}}, "filter.year.exists"),
        ({"and": {}}, "filter.and"),
        ({"or": []}, "filter.or"),
        ({"or": [{}, {"and": [{"a": {"is": 1}}]}]}, "filter.or[1].and[0].a.is"),
        (nested(MAX_DEPTH), "filter" + ".not" * MAX_DEPTH),
        ({"and": [{}] * (MAX_CLAUSES + 1)}, f"filter.and[{MAX_CLAUSES}]"),
        ({f"f{n}": {"eq": 1} for n in range(MAX_CLAUSES + 1)}, f"filter.f{MAX_CLAUSES}.eq"),
        ({"a": {"in": [1] * MAX_VALUES}, "b": {"in": [1]}}, "filter.b.in"),
    ],
)
def test_what_is_wrong_is_named(value: Any, path: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        read_filter(value)
    assert caught.value.path == path


def test_bounds_are_allowed() -> None:
    read_filter(nested(MAX_DEPTH - 1))
    read_filter({"and": [{"a": {"in": [1] * MAX_VALUES}}]} | {f"f{n}": {"eq": 1} for n in range(MAX_CLAUSES - 2)})


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": {"eq": NaN}}'])
def test_text_that_is_no_filter(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_filter(text)


@given(
    st.lists(METADATA, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    FILTERS,
    st.integers(0, 6),
    st.sampled_from([0, 16_384]),
)
def test_joined_columns_match_what_the_metadata_does(
    metadata: list[Any], kept: list[bool], wanted: Any, cut: int, sorted_at_once: int
) -> None:
    where = read_filter(wanted)
    columns = Attributes.of(metadata)
    assert columns.matching(where).tolist() == [satisfies(one, wanted) for one in metadata]
    assert columns.rows_matching(where).tolist() == np.flatnonzero(columns.matching(where)).tolist()
    living = [one for one, lives in zip(metadata, kept, strict=False) if lives]
    places = iter(range(len(living)))
    moves = np.array([next(places) if lives else -1 for lives in kept[: len(metadata)]], np.int32)
    parts = [(Attributes.of(metadata[some]), moves[some]) for some in (slice(cut), slice(cut, None))]
    with mock.patch.object(attributes, "_SORTED_AT_ONCE", sorted_at_once):
        merged, expected = joined(parts, len(living)), Attributes.of(living)
    assert merged.pairs == expected.pairs
    assert np.array_equal(merged.starts, expected.starts)
    assert np.array_equal(merged.rows, expected.rows)
    assert (merged.rows.dtype, merged.count) == (expected.rows.dtype, len(living))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"n": {"eq": 1}}, [True, True, False, False]),
        ({"n": {"eq": "1"}}, [False, False, True, False]),
        ({"n": {"eq": True}}, [False, False, False, True]),
        ({"n": {"gte": 1}}, [True, True, False, False]),
        ({"n": {"gte": "0"}}, [False, False, True, False]),
        ({"n": {"ne": 1}}, [False, False, True, True]),
    ],
)
def test_kinds_never_mix(wanted: Any, expected: list[bool]) -> None:
    columns = Attributes.of([{"n": 1}, {"n": 1.0}, {"n": "1"}, {"n": True}])
    assert columns.matching(read_filter(wanted)).tolist() == expected
