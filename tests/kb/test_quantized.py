"""Segments that are scanned by bits, in memory and on disk."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import pytest

from kb.encoder.embeddings import EmbeddingCache
from kb.facts import Delete, Upsert
from kb.index import namespace, quantized, stored
from kb.index.attributes import Attributes
from kb.index.ids import Ids
from kb.index.merging import Merged
from kb.index.postings import Postings
from kb.index.quantized import QuantizedSegment, encoded
from kb.store import Store
from tests.kb.hashing import HashEncoder

ROWS, DIMENSION, NOW = 3000, 64, 0.0
INDEX = "facts.db.index"


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=["all scanned", "in lists"])
def segment(request: pytest.FixtureRequest) -> QuantizedSegment:
    source = np.random.default_rng(3)
    centres = np.repeat(source.standard_normal((30, DIMENSION)), ROWS // 30, axis=0)
    rows = unit(centres + 0.5 * source.standard_normal((ROWS, DIMENSION)))
    ids = Ids.of(f"{row:04d}" for row in range(ROWS))
    columns = Postings.of([""] * ROWS), Attributes.of([{}] * ROWS)
    least = 1 if request.param == "in lists" else ROWS + 1
    with mock.patch.multiple(quantized, PARTITIONED_ROWS=least, _ROWS_PER_LIST=100):
        codes = encoded(rows)
    assert getattr(codes, "nlist", 0) == (30 if least == 1 else 0)
    return QuantizedSegment(ids, rows, np.full(ROWS, np.inf), *columns, codes)


@pytest.mark.parametrize("living", [1.0, 0.9, 0.3, 0.01])
@pytest.mark.parametrize("few", [0, 100, 4096])
def test_nearly_all_of_the_best_rows_are_found(
    segment: QuantizedSegment, monkeypatch: pytest.MonkeyPatch, living: float, few: int
) -> None:
    monkeypatch.setattr(quantized, "_CANDIDATES", 400)
    monkeypatch.setattr(quantized, "_FEW", few)
    mask = np.random.default_rng(4).random(ROWS) < living
    alive = None if living == 1 else np.packbits(mask, bitorder="little")
    found = wanted = 0
    for query in unit(segment.vectors(np.arange(0, ROWS, 97)) + 0.05):
        scores = np.where(mask | (living == 1), segment.vectors(np.arange(ROWS)) @ query, -np.inf)
        best = np.argsort(-scores)[: min(8, int(np.isfinite(scores).sum()))]
        rows = segment.search(query, 8, alive)
        assert np.isfinite(scores[rows]).all()
        assert (np.diff(scores[rows]) <= 1e-6).all()
        found += len({*rows.tolist()} & {*best.tolist()})
        wanted += len(best)
    assert found >= 0.98 * wanted
    assert few < mask.sum() or found == wanted


@pytest.fixture(autouse=True)
def soon_quantized() -> Iterator[None]:
    with mock.patch.object(quantized, "QUANTIZED_ROWS", 100), mock.patch.object(namespace, "DELTA_ROWS", 4):
        yield


def settled(store: Store) -> Store:
    """Once nothing is left to merge."""
    deadline = time.monotonic() + 20
    while any(index.merge_plan() for index in store.snapshot.indexes.values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return store


def told(store: Store) -> Any:
    """What all kinds of searches say."""
    ask = HashEncoder().embed([f"question {number}" for number in range(5)])
    hits = [
        store.snapshot.search("default", vector, 12, -1.0, NOW, text=f"text {number}", method=method)
        for number, vector in enumerate(ask)
        for method in ("dense", "lexical", "hybrid")
    ]
    return [[(hit.fact, round(hit.rank_score, 6)) for hit in some] for some in hits]


def quantized_rows(store: Store) -> int:
    parts = store.snapshot.indexes["default"].parts
    return sum(part.live for part in parts if isinstance(part.segment, QuantizedSegment))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_encoder: Callable[[], Any]) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("sound")
    with (
        mock.patch.object(quantized, "QUANTIZED_ROWS", 100),
        mock.patch.object(namespace, "DELTA_ROWS", 4),
        Store.open(directory, make_encoder()) as store,
    ):
        store.apply([Upsert(f"f{number:03d}", "default", f"text {number}", {"n": number}) for number in range(250)])
        store.apply([Upsert("other", "small", "text of another namespace")])
        settled(store)
        assert quantized_rows(store) == 250
        store.apply([Delete("f007", "default"), Upsert("f008", "default", "text 8, changed")])
        return directory, told(store)


@pytest.fixture
def copy(sound: tuple[Path, Any], tmp_path: Path) -> Path:
    shutil.copytree(sound[0], tmp_path / "kb")
    return tmp_path / "kb"


def test_a_start_takes_what_still_holds_from_the_segments(
    copy: Path, sound: tuple[Path, Any], encoder: HashEncoder
) -> None:
    asked: list[str] = []
    kept = EmbeddingCache.stored

    def stored_vectors(cache: EmbeddingCache, texts: Any) -> Any:
        asked.extend(texts)
        return kept(cache, texts)

    with mock.patch.object(EmbeddingCache, "stored", stored_vectors), Store.open(copy, encoder) as store:
        assert sorted(asked) == ["text 8, changed", "text of another namespace"]
        assert quantized_rows(store) == 248
        assert told(store) == sound[1]
    assert encoder.embedded == []


@pytest.mark.parametrize("name", ["columns", "columns.json", "codes.faiss", "values.jsonl", "files.json"])
def test_a_damaged_segment_is_made_anew(
    copy: Path, sound: tuple[Path, Any], encoder: HashEncoder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    (place,) = (copy / INDEX).iterdir()
    data = bytearray((place / name).read_bytes())
    data[len(data) // 2] ^= 1
    (place / name).write_bytes(data)
    with Store.open(copy, encoder) as store:
        assert told(settled(store)) == sound[1]
        assert quantized_rows(store) >= 248
        (new,) = (copy / INDEX).iterdir()
        assert new != place
    assert not caplog.records


def test_segments_of_another_encoder_and_torn_ones_are_removed(copy: Path, sound: tuple[Path, Any]) -> None:
    torn = copy / INDEX / "0123.part"
    torn.mkdir()
    (torn / "columns").write_bytes(b"half")
    other = HashEncoder()
    other.fingerprint = "hash-encoder-2"
    with Store.open(copy, other) as store:
        assert told(settled(store)) == sound[1]
        (place,) = (copy / INDEX).iterdir()
        assert b"hash-encoder-2" in (place / "files.json").read_bytes()


@pytest.mark.parametrize("name", ["_COLUMNS", "_CODES", "_VALUES", "_LIST"])
def test_a_disk_that_takes_nothing_costs_no_answer(
    tmp_path: Path, encoder: HashEncoder, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with Store.open(tmp_path / "kb", encoder) as store:
        with mock.patch.object(stored, name, "/dev/full"):
            store.apply([Upsert(f"f{number:03d}", "default", f"text {number}") for number in range(150)])
            settled(store)
        assert quantized_rows(store) == 150
        assert len(told(store)[0]) == 12
        assert list((tmp_path / "kb" / INDEX).iterdir()) == []
    assert "could not be kept" in caplog.text


def test_a_full_disk_kills_nobody_who_writes_vectors(copy: Path, encoder: HashEncoder) -> None:
    """As storing into a mapping would, with SIGBUS."""
    with Store.open(copy, encoder) as store, pytest.raises(OSError, match="No space left"):
        stored._write_columns(Path("/dev/full"), Merged.of(store.snapshot.indexes["default"].parts))


def test_a_directory_taken_away_is_made_again(
    copy: Path, encoder: HashEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(copy, encoder) as store:
        shutil.rmtree(copy / INDEX)
        store.apply([Upsert(f"g{number:03d}", "default", f"text {number}") for number in range(300)])
        assert len(told(settled(store))[0]) == 12
        assert len(list((copy / INDEX).iterdir())) == 1
    assert not caplog.records


@pytest.mark.parametrize("failing", ["iterdir", "read_index"])
def test_what_cannot_be_read_is_made_anew(
    copy: Path, sound: tuple[Path, Any], encoder: HashEncoder, failing: str
) -> None:
    of, error = {"iterdir": (Path, PermissionError(13, failing)), "read_index": (faiss, RuntimeError(failing))}[failing]
    with mock.patch.object(of, failing, side_effect=error):
        store = Store.open(copy, encoder)
    with store:
        assert told(settled(store)) == sound[1]
    assert encoder.embedded == []


@pytest.mark.parametrize("listed", [b"[]", b"3", b'{"format": 4}', b"{", b"\xff", b""])
def test_a_list_of_files_that_is_none_costs_no_start(
    copy: Path, sound: tuple[Path, Any], encoder: HashEncoder, listed: bytes
) -> None:
    (place,) = (copy / INDEX).iterdir()
    (place / "files.json").write_bytes(listed)
    with Store.open(copy, encoder) as store:
        assert told(store) == sound[1]


def test_segments_of_another_dimension_are_not_searched(copy: Path) -> None:
    with Store.open(copy, HashEncoder(32)) as store:
        query = HashEncoder(32).embed(["text 3"])[0]
        assert store.snapshot.search("default", query, 1, 0.9, NOW)[0].fact.id == "f003"


def test_a_filter_finds_rows_that_are_far_from_the_question(
    segment: QuantizedSegment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_CANDIDATES", 100)
    monkeypatch.setattr(quantized, "_MOST_CANDIDATES", 200)
    monkeypatch.setattr(quantized, "_FEW", 50)
    monkeypatch.setattr(quantized, "_CHUNK", 64)
    matrix = segment.vectors(np.arange(ROWS))
    order = np.argsort(matrix @ matrix[0], kind="stable")
    mask = np.zeros(ROWS, np.bool_)
    mask[order[: ROWS // 4]] = True
    for k in (1, 40, 700, ROWS):
        rows = segment.search(matrix[0], k, np.packbits(mask, bitorder="little"))
        assert rows.tolist() == order[: ROWS // 4][::-1][:k].tolist()
    assert len(segment.search(matrix[0], 300, None)) == 300


def test_merged_rows_are_those_that_live(copy: Path, encoder: HashEncoder) -> None:
    with Store.open(copy, encoder) as store:
        parts = store.snapshot.indexes["default"].parts
        merged = Merged.of(parts)
        assert list(merged.ids) == sorted(fact.id for fact in store.snapshot.facts("default", NOW))
        texts = [store.snapshot.by_key["default", one].text for one in merged.ids]
        assert np.array_equal(merged.matrix(), HashEncoder().embed(texts))


def test_what_all_facts_were_taken_from_leaves_the_disk(copy: Path, encoder: HashEncoder) -> None:
    with Store.open(copy, encoder) as store:
        store.apply([Delete(fact.id, "default") for fact in store.snapshot.facts("default", NOW)])
    with Store.open(copy, encoder):
        assert list((copy / INDEX).iterdir()) == []
