"""Long merges go on beside edits and beside short merges, and nothing that one makes is lost to the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kb.facts import Upsert
from kb.index import compaction, namespace, quantized
from kb.index.merging import Merged
from kb.index.quantized import QuantizedSegment
from kb.index.stored import SegmentStore
from kb.store import Store
from tests.kb.hashing import HashEncoder


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def settled(store: Store) -> bool:
    return not any(index.merge_plan() for index in store.snapshot.indexes.values())


@pytest.fixture(autouse=True)
def small() -> Any:
    with (
        mock.patch.object(compaction, "LONG_ROWS", 60),
        mock.patch.object(quantized, "QUANTIZED_ROWS", 20),
        mock.patch.object(namespace, "DELTA_ROWS", 2),
    ):
        yield


def test_short_merges_go_on_beside_a_long_one(tmp_path: Path, encoder: HashEncoder) -> None:
    written, over = threading.Event(), threading.Event()
    write = SegmentStore.write

    def slowly(store: SegmentStore, name: str, merged: Merged) -> QuantizedSegment:
        segment = write(store, name, merged)
        if len(merged.ids) >= 60:
            written.set()
            assert over.wait(20)
        return segment

    with mock.patch.object(SegmentStore, "write", slowly), Store.open(tmp_path, encoder) as store:
        try:
            store.apply([Upsert(f"a{number:03d}", "default", f"text {number}") for number in range(80)])
            store.apply([Upsert("other", "small", "text")])
            assert written.wait(20)
            merges = store.merges
            for edit in range(12):
                store.apply([Upsert(f"b{edit:02d}{row}", "default", f"text b {edit} {row}") for row in range(4)])
                store.apply([Upsert("a007", "default", f"text 7, changed {edit}")])
            until(lambda: store.merges >= merges + 3)
            assert len(store.snapshot.indexes["default"].parts) < 12
        finally:
            over.set()
        until(lambda: settled(store))
        found = store.snapshot.search("default", encoder.embed(["text 7, changed 11"])[0], 1, -1.0, 0.0, text="")
        assert found[0].fact.id == "a007"
        assert store.snapshot.count("default") == len(list(store.snapshot.facts("default", 0.0))) == 128
        parts = store.snapshot.indexes["default"].parts
        kept = {part.segment.path for part in parts if isinstance(part.segment, QuantizedSegment)}
        until(lambda: {*(tmp_path / "facts.db.index").iterdir()} == kept)
    with Store.open(tmp_path, HashEncoder()) as store:
        assert store.snapshot.count("default") == 128


def test_a_merge_that_fails_is_tried_again_by_the_next_edit(
    tmp_path: Path, encoder: HashEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(SegmentStore, "write", side_effect=RuntimeError("broken")) as write:
        store = Store.open(tmp_path, encoder)
        store.apply([Upsert(f"a{number:03d}", "default", f"text {number}") for number in range(80)])
        until(lambda: "merging index segments failed" in caplog.text)
        time.sleep(0.05)
        assert write.call_count == 1
    with store:
        store.apply([Upsert("other", "small", "text")])
        until(lambda: settled(store) and store.merges)


def test_during_an_import_merges_wait_and_after_it_they_are_made_up_for(tmp_path: Path, encoder: HashEncoder) -> None:
    def bulk(edit: int) -> None:
        store.apply([Upsert(f"a{edit}{row}", "default", f"text {edit} {row}") for row in range(4)])

    with mock.patch.multiple(compaction, BULK_ROWS=4, BULK_SECONDS=3600.0), Store.open(tmp_path, encoder) as store:
        for edit in range(4):
            bulk(edit)
        assert (store.merges, settled(store)) == (0, False)
        bulk(4)
        until(lambda: store.merges == 1)
        bulk(5)
        bulk(6)
        with mock.patch.object(compaction, "BULK_SECONDS", 0.0):
            bulk(7)
        until(lambda: settled(store))
        assert store.merges == 2
        assert store.snapshot.count("default") == 32
