"""What lies in one file is what was put there, and ids in bytes are ordered as strings are."""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_left, bisect_right
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kb.index.columns import ColumnWriter, mapped
from kb.index.ids import Ids

COLUMNS = arrays.arrays(
    st.sampled_from(["<f4", "<i8", "u1", "S3", "S17", "<u2"]),
    arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(st.lists(COLUMNS, min_size=1, max_size=4), st.integers(1, 3))
def test_columns_come_back(columns: list[np.ndarray], step: int) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "columns"
        with ColumnWriter(path) as writer:
            for number, column in enumerate(columns):
                chunks = [column[start : start + step] for start in range(0, len(column), step)] or [column]
                writer.add(str(number), chunks, column.shape)
        if path.stat().st_size == 0:
            return
        handles = len(os.listdir("/proc/self/fd"))
        found = mapped(path, writer.places)
        assert len(os.listdir("/proc/self/fd")) <= handles + 1
        for number, column in enumerate(columns):
            one = found[str(number)]
            assert (one.dtype, one.shape, one.tobytes()) == (column.dtype, column.shape, column.tobytes())
            assert not one.size or not one.flags.writeable


def test_a_file_that_is_too_short_is_none(tmp_path: Path) -> None:
    path = tmp_path / "columns"
    with ColumnWriter(path) as writer:
        writer.add("one", [np.arange(100)], (100,))
    os.truncate(path, 400)
    with pytest.raises(ValueError, match="buffer"):
        mapped(path, writer.places)


@given(st.lists(TEXTS, unique=True, max_size=12), TEXTS)
def test_ids_are_a_sequence_of_strings(ids: list[str], wanted: str) -> None:
    names = Ids.of(ids)
    order = np.argsort(names.names, kind="stable")
    assert [ids[row] for row in order] == sorted(ids) == names.at(order)
    in_order = Ids(names.names[order])
    assert list(in_order) == sorted(ids)
    assert bisect_left(in_order, wanted) == bisect_left(sorted(ids), wanted)
    assert bisect_right(in_order, wanted) == bisect_right(sorted(ids), wanted)
