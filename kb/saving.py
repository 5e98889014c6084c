"""Saves the state now and then, so that what a start has to replay stays bounded."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from kb.errors import KnowledgeError
from kb.log.marker import Head
from kb.log.reader import LogReader
from kb.log.state import State, write_state
from kb.publishing import Published
from kb.snapshot import Snapshot

LEAST_ENTRIES = 10_000
"""Log entries that are not worth saving a state for; nor are fewer than there are facts, which it writes anew."""

_logger = logging.getLogger(__name__)


class StateSaver:
    """Writes snapshots on a thread of its own, beside edits. `follow` is called in the writer's turn."""

    def __init__(self, path: Path, log: LogReader) -> None:
        self._path = path
        self._log = log
        self._entries = 0
        self._thread = ThreadPoolExecutor(1, "kb-saver")
        self._saving: Future[None] | None = None

    def follow(self, published: Published) -> None:
        """A subscriber of the store."""
        self.count(published.upserted + published.deleted, published.snapshot)

    def count(self, entries: int, snapshot: Snapshot) -> None:
        """So many more entries lead to `snapshot`, which is saved when a start would have too many to replay."""
        self._entries += entries
        idle = self._saving is None or self._saving.done()
        if idle and self._entries >= max(LEAST_ENTRIES, snapshot.count()):
            self._entries = 0
            self._saving = self._thread.submit(self._save, snapshot)

    def close(self) -> None:
        """Waits for what is being written."""
        self._thread.shutdown()

    def _save(self, snapshot: Snapshot) -> None:
        try:
            chain = self._log.chain_at(snapshot.version)
            if chain is None:
                return  # history was let go up to a later version: there will be another state
            write_state(self._path, State(Head(snapshot.version, chain), snapshot.by_key))
        except (OSError, KnowledgeError):
            _logger.warning("the state could not be saved, so the next start takes longer", exc_info=True)
