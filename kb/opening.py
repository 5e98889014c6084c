"""The parts of a store, opened and checked, with all that lies beside the log."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kb.encoder.embeddings import EmbeddingCache
from kb.encoder.protocol import Encoder
from kb.errors import StoreUnavailable, VersionGone
from kb.index.stored import SegmentStore
from kb.loading import Loader, Progress, check_head, open_marker, uncollected
from kb.log.fact_log import FactLog
from kb.log.location import Location, StoreLock
from kb.log.marker import Head, HeadMarker
from kb.log.opening import open_log
from kb.log.state import State, read_state, state_of
from kb.snapshot import Snapshot

ATTEMPTS = 5
"""To read a log while others let its history go."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a store is made of."""

    log: FactLog
    marker: HeadMarker | None
    """None: the database is no file here."""
    cache: EmbeddingCache
    segments: SegmentStore | None
    state_path: Path | None
    snapshot: Snapshot
    head: Head
    replayed: int
    """Log entries that the start read."""
    resources: ExitStack


def open_parts(location: Location, encoder: Encoder, local: Path | None, progress: Progress | None) -> Parts:
    """Raises StoreLocked, StoreUnavailable, StoreCorrupt."""
    with ExitStack() as cleanup:
        marker = None
        if location.database is not None:
            cleanup.callback(StoreLock(location.beside(".lock")).release)
            marker = open_marker(location)
            cleanup.callback(marker.close)
        beside = _beside(location, local, cleanup)
        state_path = None if beside is None else beside.with_name(f"{beside.name}.state")
        segments = _open_segments(beside, encoder)
        with uncollected():
            log, saved = _read(location, state_path, segments, cleanup)
            cache = EmbeddingCache(log.engine, encoder)
            loader, snapshot = _load(log, saved, cache, segments, progress, marker, location)
        return Parts(
            log, marker, cache, segments, state_path, snapshot, loader.head, loader.replayed, cleanup.pop_all()
        )


def _read(
    location: Location, state_path: Path | None, segments: SegmentStore | None, cleanup: ExitStack
) -> tuple[FactLog, State | None]:
    """The log, opened, and the state saved beside it: while SQLite checks the one, others read the other files."""

    def opened() -> FactLog:
        log = open_log(location)
        cleanup.callback(log.close)
        return log

    with ThreadPoolExecutor(2, "kb-opening") as others:
        opening = others.submit(opened)
        if segments is not None:
            others.submit(segments.check)
        saved = None if state_path is None else read_state(state_path)
        return opening.result(), saved


def _load(
    log: FactLog,
    saved: State | None,
    cache: EmbeddingCache,
    segments: SegmentStore | None,
    progress: Progress | None,
    marker: HeadMarker | None,
    location: Location,
) -> tuple[Loader, Snapshot]:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            loader = Loader(log, state_of(saved, log), cache, segments, progress)
            return loader, loader.load(lambda head: check_head(head, marker, log, location))
        except VersionGone:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _beside(location: Location, local: Path | None, cleanup: ExitStack) -> Path | None:
    """The file that others lie beside, of which this process alone writes; None: nowhere."""
    if location.database is not None:
        return location.database
    if local is None:
        return None
    path = local / "replica"
    try:
        cleanup.callback(StoreLock(path.with_name(f"{path.name}.lock")).release)
    except StoreUnavailable as error:
        _logger.warning("nothing is saved beside this log, so the next start takes longer: %s", error)
        return None
    return path


def _open_segments(beside: Path | None, encoder: Encoder) -> SegmentStore | None:
    """Where large segments are kept; None where they cannot be."""
    if beside is None:
        return None
    try:
        return SegmentStore(beside.with_name(f"{beside.name}.index"), encoder.fingerprint, encoder.dimension)
    except OSError:
        _logger.warning("index segments cannot be kept, so the next start takes longer", exc_info=True)
        return None
