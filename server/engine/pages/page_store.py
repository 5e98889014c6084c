"""Page content on disk, by key: what lets a restart skip encoding.

Writes and deletions happen on a thread of their own, behind a bounded queue: the file system may take tens of
milliseconds over either. When the queue is full, a write is skipped and a deletion done at once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Full, Queue

import torch

from kan.knowledge.pages import PageContent, PageContentError, read_pages, write_pages
from server.engine.pages.page_directory import PageDirectory
from server.threads import compute_alone

log = logging.getLogger(__name__)

QUEUE_LENGTH = 256
NICENESS = 10


class PageStore:
    """A `PageDirectory` with one reader and writer, the embedded engine."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._files = PageDirectory(directory, limit_bytes)
        self._lock = threading.Lock()
        self._queued: set[str] = set()
        """Keys waiting to be written; removing a key takes it out, and its write is dropped."""
        self._queue: Queue[tuple[str, Callable[[], PageContent] | None] | None] = Queue(QUEUE_LENGTH)
        """A key and what to write under it, or None to delete its file. None alone: the end."""
        self._writer = threading.Thread(target=self._write_all, name="kalmagrove-pages", daemon=True)
        self._writer.start()

    def read(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> PageContent | None:
        """The content, or None if it is not there or damaged (a damaged file is removed)."""
        if not self._files.touch(key):
            return None
        path = self._files.file(key)
        try:
            return read_pages(path, shape, dtype)
        except (OSError, PageContentError) as error:
            log.warning("page content %s is unusable and will be encoded again: %s", path, error)
            self.remove(key)
            return None

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def write(self, key: str, content: Callable[[], PageContent]) -> None:
        """Queue a write; returns at once. `content` is called on the writing thread."""
        with self._lock:
            self._queued.add(key)
        try:
            self._queue.put_nowait((key, content))
        except Full:
            with self._lock:
                self._queued.discard(key)
            log.debug("page content %s not kept on disk: the write queue is full", key)

    def remove(self, key: str) -> None:
        """Never read again from now on; the file goes when its turn comes."""
        with self._lock:
            self._queued.discard(key)
            there = self._files.drop(key)
        if there:
            try:
                self._queue.put_nowait((key, None))
            except Full:
                self._files.file(key).unlink(missing_ok=True)

    def flush(self) -> None:
        """Wait until everything queued so far has been written."""
        self._queue.join()

    def close(self) -> None:
        """Write what is queued and stop."""
        self._queue.put(None)
        self._writer.join()

    def _write_all(self) -> None:
        compute_alone()
        # Nobody waits for these writes, but edits and streams wait for the processor.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except OSError as error:
                log.warning("page content not kept on disk: %s", error)
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, key: str, content: Callable[[], PageContent] | None) -> None:
        """No lock is held over what the disk may delay: the engine's thread takes it too."""
        path = self._files.file(key)
        with self._lock:
            wanted = key in self._queued
        if content is None:
            path.unlink(missing_ok=True)
        elif wanted:
            write_pages(path, content())
            if not self._adopt(key):
                path.unlink(missing_ok=True)

    def _adopt(self, key: str) -> bool:
        """Count a written file as there, unless the key was removed meanwhile."""
        with self._lock:
            if key not in self._queued:
                return False
            self._queued.discard(key)
            self._files.adopt(key)
            return True
