"""Import and export."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.facts import Delete, Fact, InvalidLine, Limits, Upsert
from kb.ndjson import export_lines, format_time, parse_time, read_batches
from kb.store import Store

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
FACTS = st.builds(
    Fact,
    id=st.from_regex(r"[a-z0-9][A-Za-z0-9._:@~-]{0,20}", fullmatch=True),
    namespace=st.sampled_from(["default", "other"]),
    text=TEXT.map("fact ".__add__),
    metadata=st.dictionaries(TEXT, JSON, max_size=2),
    expires_at=st.none() | st.floats(4e9, 253_402_300_799).map(lambda seconds: round(seconds, 6)),
    version=st.just(1),
    created_at=st.just(0.0),
)


@given(facts=st.lists(FACTS, max_size=5, unique_by=lambda fact: fact.key), cut=st.integers(1, 50))
def test_what_is_exported_is_imported_again(facts: list[Fact], cut: int) -> None:
    stream = b"".join(export_lines(facts))
    chunks = [stream[start : start + cut] for start in range(0, len(stream), cut)]
    batches = list(read_batches(chunks, namespace="wrong", limits=Limits(batch_changes=3, metadata_bytes=65_536)))
    changes = [change for batch in batches for change in batch.changes]
    expected = [Upsert(fact.id, fact.namespace, fact.text, fact.metadata, fact.expires_at) for fact in facts]
    assert repr(changes) == repr(expected)
    assert all(len(batch.changes) <= 3 for batch in batches)


@given(st.floats(0, 253_402_300_799))
def test_times_survive_to_the_microsecond(seconds: float) -> None:
    assert parse_time(format_time(round(seconds, 6))) == round(seconds, 6)


def test_a_store_is_copied_through_a_file(store: Store, tmp_path: Path, encoder: Any) -> None:
    store.apply([Upsert("a", "default", "one", {"n": [1, None]}, 2_000_000_000.25), Upsert("b", "other", "zwei ü")])
    path = tmp_path / "facts.ndjson"
    with path.open("wb") as file:
        file.writelines(export_lines(store.snapshot.facts(None, 0.0)))
    with Store.open(tmp_path / "copy", encoder) as copy, path.open("rb") as file:
        for batch in read_batches(file):
            copy.apply(batch.changes)
        assert list(export_lines(copy.snapshot.facts(None, 0.0))) == path.read_bytes().splitlines(keepends=True)


def test_lines_of_one_fact_never_share_a_batch() -> None:
    lines = [b'{"id":"a","text":"1"}\n\n', b'{"id":"b","text":"2"}\n{"id":"a","text":"3"}\n{"op":"delete","id":"b"}']
    batches = list(read_batches(lines))
    assert [batch.last_line for batch in batches] == [3, 5]
    assert batches[0].changes == (Upsert("a", "default", "1"), Upsert("b", "default", "2"))
    assert batches[1].changes == (Upsert("a", "default", "3"), Delete("b", "default"))


BAD: list[tuple[bytes, str | None]] = [
    (b"{", None),
    (b"\xff\xfe", None),
    (b"[]", None),
    (b'{"text": "x", "n": NaN}', None),
    (b'{"id": "a"}', "text"),
    (b'{"text": "x", "txet": 1}', "txet"),
    (b'{"text": 5}', "text"),
    (b'{"text": "x", "id": 5}', "id"),
    (b'{"text": "x", "namespace": null}', "namespace"),
    (b'{"text": "x", "metadata": []}', "metadata"),
    (b'{"text": "x", "metadata": {"n": 18446744073709551616}}', "metadata"),
    (b'{"text": "x", "metadata": {"n": [{"m": -18446744073709551616}]}}', "metadata"),
    (b'{"text": "x", "metadata": {"n": 1e999}}', "metadata"),
    (b'{"text": "\\u200b"}', "text"),
    (b'{"text": "x", "op": "destroy"}', "op"),
    (b'{"text": "x", "op": []}', "op"),
    (b'{"op": "delete"}', "id"),
    (b'{"op": "delete", "id": "a", "text": "x"}', "text"),
    (b'{"text": "x", "expires_at": 17}', "expires_at"),
    (b'{"text": "x", "expires_at": "tomorrow"}', "expires_at"),
    (b'{"text": "x", "expires_at": "2020-01-01T00:00:00Z"}', "expires_at"),
    (b'{"text": "x", "expires_at": "2031-01-01T00:00:00"}', "expires_at"),
    (b'{"text": "x", "expires_at": "0001-01-01T00:00:00+14:00"}', "expires_at"),
    (b'{"text": "' + b"x" * 70_000 + b'"}', None),
]


@pytest.mark.parametrize(("line", "field"), BAD, ids=lambda value: repr(value)[:40])
def test_a_bad_line_is_named_by_its_number(line: bytes, field: str | None) -> None:
    with pytest.raises(InvalidLine) as caught:
        list(read_batches([b'{"id": "good", "text": "x"}\n \n', line, b"\n"]))
    assert (caught.value.line, caught.value.field) == (3, field)


def test_a_line_without_end_is_refused_before_it_is_held() -> None:
    given_out = 0

    def endless() -> Any:
        nonlocal given_out
        while True:
            given_out += 1
            yield b"x" * 1000

    with pytest.raises(InvalidLine, match="longer than 5000 bytes"):
        list(read_batches(endless(), longest_line=5000))
    assert given_out < 10


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(InvalidLine):
        assert all(batch.changes for batch in read_batches([data]))


@given(
    chunks=st.lists(
        st.lists(st.sampled_from([b"a", b" ", b"\n", b"\r", b"\xc2"]), max_size=12).map(b"".join), max_size=4
    ),
    longest=st.integers(1, 6),
)
def test_lines_are_numbered_as_they_stand(chunks: list[bytes], longest: int) -> None:
    """The first line that is not JSON is named, or the first that is too long: none here is JSON."""
    lines = enumerate(b"".join(chunks).split(b"\n"), 1)
    wrong = next((number for number, line in lines if line.strip() or len(line) > longest), None)
    if wrong is None:
        assert not list(read_batches(chunks, longest_line=longest))
    else:
        with pytest.raises(InvalidLine) as refusal:
            list(read_batches(chunks, longest_line=longest))
        assert refusal.value.line == wrong


@pytest.mark.parametrize("blank", [b"\n", b" \t\r\n"])
def test_nothing_is_done_for_each_blank_line(blank: bytes) -> None:
    """A megabyte of gzip becomes a gigabyte of them."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        batches = list(read_batches([blank * 1000] * 3 + [b'{"id": "a", "text": "b"}']))
    finally:
        sys.setprofile(None)
    assert [batch.last_line for batch in batches] == [3001]
    assert calls < 500
