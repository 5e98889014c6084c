"""Page content on disk, by key: what lets a restart skip encoding. A cache: losing any of it costs only time.

Writes happen on a thread of their own, behind a bounded queue; when that is full the write is skipped.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from queue import Full, Queue

import torch

from kan.pages import PageContent, PageContentError, pack, unpack
from server.threads import compute_alone

log = logging.getLogger(__name__)

QUEUE_LENGTH = 256
SUFFIX = ".pages"
NICENESS = 10


class PageStore:
    """A directory of files `<key>.pages`, bounded in bytes; the least recently used go first."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._queued: set[str] = set()
        """Keys waiting to be written; removing a key takes it out, and its write is dropped."""
        self._total = 0
        self._queue: Queue[tuple[str, Callable[[], PageContent]] | None] = Queue(QUEUE_LENGTH)
        directory.mkdir(parents=True, exist_ok=True)
        self._scan()
        self._writer = threading.Thread(target=self._write_all, name="kalmagrove-pages", daemon=True)
        self._writer.start()

    def read(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> PageContent | None:
        """The content, or None if it is not there or damaged (a damaged file is removed)."""
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
        try:
            return unpack(self._path(key).read_bytes(), shape, dtype)
        except (OSError, PageContentError) as error:
            log.warning("page content %s is unusable and will be encoded again: %s", self._path(key), error)
            self.remove(key)
            return None

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._sizes

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
        with self._lock:
            self._queued.discard(key)
            self._total -= self._sizes.pop(key, 0)
            self._delete(key)

    def flush(self) -> None:
        """Wait until everything queued so far has been written."""
        self._queue.join()

    def close(self) -> None:
        """Write what is queued and stop."""
        self._queue.put(None)
        self._writer.join()

    def _scan(self) -> None:
        found = []
        for entry in os.scandir(self._directory):
            if entry.name.endswith(SUFFIX):
                status = entry.stat()
                found.append((status.st_mtime, entry.name.removesuffix(SUFFIX), status.st_size))
            elif entry.name.endswith(".tmp"):
                Path(entry.path).unlink(missing_ok=True)
        for _, key, size in sorted(found):
            self._sizes[key] = size
            self._total += size
        self._trim()

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

    def _write(self, key: str, content: Callable[[], PageContent]) -> None:
        data = pack(content())
        temporary = self._path(key).with_suffix(".tmp")
        try:
            temporary.write_bytes(data)
            with self._lock:
                if key not in self._queued:
                    return
                self._queued.discard(key)
                temporary.replace(self._path(key))
                self._total += len(data) - self._sizes.pop(key, 0)
                self._sizes[key] = len(data)
        finally:
            temporary.unlink(missing_ok=True)
        self._trim()

    def _trim(self) -> None:
        with self._lock:
            while self._total > self._limit and len(self._sizes) > 1:
                old, size = self._sizes.popitem(last=False)
                self._total -= size
                self._delete(old)

    def _delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            log.error("page content %s could not be deleted: %s", self._path(key), error)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}{SUFFIX}"
