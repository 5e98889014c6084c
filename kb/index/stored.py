"""Large segments on disk, so that a start neither embeds, nor reads vectors one by one, nor counts terms.

A directory for each: columns in one file, mapped into memory; FAISS's codes; the values of the metadata; and last a
list of all files with their digests. It is written beside its place and renamed, so it is whole or not there; one whose
bytes are not those that were written is removed, and its rows are indexed anew.

Whether a row still holds is told by all that the fact says, so nothing here must agree with the log's version.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray

from kb.durable import sync
from kb.facts import Fact
from kb.index.attributes import Attributes, Pair
from kb.index.columns import ColumnWriter, Place, mapped
from kb.index.digests import SIZE, digest_of
from kb.index.ids import Ids
from kb.index.impacts import Impacts
from kb.index.merging import Merged
from kb.index.part import Part
from kb.index.postings import Postings
from kb.index.quantized import QuantizedSegment, encoded
from kb.index.spellings import Spellings

_FORMAT: Final = 4
"""Grows with every change of what columns hold, as of how texts are split into terms."""
_LIST: Final = "files.json"
_COLUMNS: Final = "columns"
_PLACES: Final = "columns.json"
_CODES: Final = "codes.faiss"
_VALUES: Final = "values.jsonl"
_PARTIAL: Final = ".part"
_PAIRS_OF_LINE: Final = 4096

_logger = logging.getLogger(__name__)


class SegmentStore:
    """A directory of segments that were made with one encoder. Several threads may write."""

    def __init__(self, directory: Path, encoder: str, dimension: int) -> None:
        """`encoder` is its fingerprint. What an interrupted write left behind is removed. Raises OSError."""
        self._directory = directory
        self._new: frozenset[Path] = frozenset()  # replaced, never changed
        self._lock = threading.Lock()
        self._checked: dict[Path, str | None] = {}
        self._made = {"format": _FORMAT, "encoder": encoder, "dimension": dimension}
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(f"*{_PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)

    def write(self, namespace: str, merged: Merged) -> QuantizedSegment:
        """The segment of these rows. Raises OSError."""
        place = self._directory / uuid.uuid4().hex
        partial = place.with_suffix(_PARTIAL)
        with self._lock:
            self._new |= {place, partial}
        try:
            partial.mkdir(parents=True)
            places = _write_columns(partial / _COLUMNS, merged)
            matrix = mapped(partial / _COLUMNS, places)["vectors"]
            (partial / _CODES).write_bytes(faiss.serialize_index(encoded(matrix)).data)
            _write_pairs(partial / _VALUES, merged.attributes.pairs)
            (partial / _PLACES).write_bytes(orjson.dumps(places))
            _seal(partial, {**self._made, "namespace": namespace})
            partial.rename(place)
            sync(self._directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return _opened(place, places)

    def check(self) -> None:
        """Reads every segment there is, which the next `parts` need not do then."""
        for place in self._places():
            self._checked[place] = self._namespace_of(place)

    def installed(self, segment: object) -> None:
        """One that was written is searched from now on, or never will be: the next `keep` is told which."""
        if isinstance(segment, QuantizedSegment) and segment.path is not None:
            with self._lock:
                self._new -= {segment.path, segment.path.with_suffix(_PARTIAL)}

    def parts(self, facts: Mapping[str, Mapping[str, Fact]]) -> Iterator[tuple[str, Part]]:
        """(namespace, part) of every sound segment, with the rows alive that still hold.

        `facts` by namespace and id: those of a part that was given must be taken away before the next is asked for, so
        that none is in two of them.
        """
        for place in sorted(self._places(), key=_size, reverse=True):
            namespace = self._checked.pop(place) if place in self._checked else self._namespace_of(place)
            living = facts.get(namespace, {}) if namespace is not None else {}
            part = _taken(place, living) if living else None
            if namespace is not None and part is not None and part.live:
                yield namespace, part
            else:
                self._remove(place)

    def keep(self, segments: Iterable[object]) -> None:
        """Removes all others, but for those that are not installed yet. Those still searched stay mapped."""
        kept = self._new | {one.path for one in segments if isinstance(one, QuantizedSegment)}
        for place in self._places():
            if place not in kept:
                self._remove(place)

    def _places(self) -> list[Path]:
        try:
            return list(self._directory.iterdir())
        except OSError as error:
            _logger.warning("the index segments cannot be listed: %s", error)
            return []

    def _namespace_of(self, place: Path) -> str | None:
        """The namespace of a segment that is what was written, by this code with this encoder."""
        try:
            listed = orjson.loads((place / _LIST).read_bytes())
            if any(listed[name] != value for name, value in self._made.items()):
                return None
            if any(_digest(place / name) != digest for name, digest in listed["files"].items()):
                _logger.warning("%s is damaged, and is made anew", place)
                return None
            return str(listed["namespace"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _remove(self, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)


def _write_columns(path: Path, merged: Merged) -> dict[str, Place]:
    """All arrays of a segment, the vectors a bounded number at a time."""
    with ColumnWriter(path) as writer:
        vectors = (chunk.astype("<f4", copy=False) for chunk in merged.vectors())
        writer.add("vectors", vectors, (len(merged.ids), merged.dimension))
        for name, column in _named(merged).items():
            writer.add(name, [column], column.shape)
    return writer.places


def _named(merged: Merged) -> dict[str, NDArray[Any]]:
    postings = merged.postings
    return {
        "ids": merged.ids.names,
        "digests": merged.digests,
        "expires": merged.expires,
        "keys": postings.keys,
        "starts": postings.starts,
        "rows": postings.rows,
        "counts": postings.counts,
        "lengths": postings.lengths,
        "spelling_starts": postings.spellings.starts,
        "spelling_codes": postings.spellings.codes,
        "value_starts": merged.attributes.starts,
        "value_rows": merged.attributes.rows,
    }


def _opened(place: Path, places: Mapping[str, Place]) -> QuantizedSegment:
    column = mapped(place / _COLUMNS, places)
    rows, counts, lengths = column["rows"], column["counts"], column["lengths"]
    spellings = Spellings(column["spelling_starts"], column["spelling_codes"])
    impacts = Impacts(rows, counts, lengths)
    postings = Postings(column["keys"], column["starts"], rows, counts, lengths, spellings, impacts)
    codes = faiss.read_index(str(place / _CODES))
    pairs = _read_pairs(place / _VALUES)
    ids = Ids(column["ids"])
    attributes = Attributes(pairs, column["value_starts"], column["value_rows"], len(ids))
    return QuantizedSegment(
        ids, column["vectors"], column["expires"], postings, attributes, codes, column["digests"], place
    )


def _write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """In lines of some: one JSON of a million would let no other thread go on until it is written, or read."""
    with path.open("wb") as file:
        for start in range(0, max(len(pairs), 1), _PAIRS_OF_LINE):
            file.write(orjson.dumps(pairs[start : start + _PAIRS_OF_LINE], option=orjson.OPT_APPEND_NEWLINE))


def _read_pairs(path: Path) -> list[Pair]:
    with path.open("rb") as file:
        return [(field, kind, value) for line in file for field, kind, value in orjson.loads(line)]


def _taken(place: Path, facts: Mapping[str, Fact]) -> Part | None:
    """None where it cannot be opened: the system maps no more files, or FAISS is another one."""
    try:
        return _living_part(_opened(place, orjson.loads((place / _PLACES).read_bytes())), facts)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        _logger.warning("%s cannot be opened, and is made anew: %s", place, error)
        return None


def _living_part(segment: QuantizedSegment, facts: Mapping[str, Fact]) -> Part:
    alive = np.zeros(len(segment), np.bool_)
    stored = segment.digests.tobytes()
    for row, fact_id in enumerate(segment.ids):
        fact = facts.get(fact_id)
        if fact is not None:
            digest = digest_of(fact.text, fact.expires_at, fact.metadata)
            alive[row] = digest == stored[row * SIZE : (row + 1) * SIZE]
    return Part.of(segment) if alive.all() else Part.of(segment).without(np.flatnonzero(~alive).tolist())


def _size(place: Path) -> int:
    """Of its columns. Where two segments hold the same rows (a crash left what was merged), the larger one is taken."""
    try:
        return (place / _COLUMNS).stat().st_size
    except OSError:
        return 0


def _seal(directory: Path, about: dict[str, object]) -> None:
    files = {}
    for path in sorted(directory.iterdir()):
        files[path.name] = _digest(path)
        sync(path)
    path = directory / _LIST
    path.write_bytes(orjson.dumps({**about, "files": files}))
    sync(path)
    sync(directory)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
