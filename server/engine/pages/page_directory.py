"""The files of page content in one directory: what is there, how large it is, and which go first when it is too much.

A cache: losing any of it costs only time. Whoever writes a file tells of it by `adopt`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path

from kan.knowledge.pages import SUFFIX, TEMPORARY_SUFFIX, page_path

log = logging.getLogger(__name__)


class PageDirectory:
    """Bounded in bytes; of the files that nobody reads, the least recently used go first. Any thread may call it."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.path = directory
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._readers: Counter[str] = Counter()
        self._forgotten: set[str] = set()
        """Removed while they had readers: they go with the last of them."""
        self._total = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._scan()

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._sizes

    def file(self, key: str) -> Path:
        """Where the content of this key lies, or would."""
        return page_path(self.path, key)

    def touch(self, key: str) -> bool:
        """Count it as used now. False if it is not there."""
        with self._lock:
            if key not in self._sizes:
                return False
            self._sizes.move_to_end(key)
            return True

    def adopt(self, key: str) -> None:
        """Its file has been written. Raises OSError if it has not."""
        size = self.file(key).stat().st_size
        with self._lock:
            self._forgotten.discard(key)
            self._total += size - self._sizes.pop(key, 0)
            self._sizes[key] = size
            self._trim()

    def retain(self, keys: Iterable[str]) -> None:
        """One more reader for each, there or not: until it is released the file stays."""
        with self._lock:
            self._readers.update(keys)

    def release(self, keys: Iterable[str]) -> None:
        """The reader is done."""
        with self._lock:
            for key in keys:
                self._readers[key] -= 1
                if self._readers[key] <= 0:
                    del self._readers[key]
                    if key in self._forgotten:
                        self._remove(key)
            self._trim()

    def remove(self, key: str) -> None:
        """Delete it now, or when its last reader is done."""
        with self._lock:
            if key in self._readers:
                self._forgotten.add(key)
            else:
                self._remove(key)

    def drop(self, key: str) -> bool:
        """Not there any more, though its file still is: that is the caller's to delete. False if it was not there."""
        with self._lock:
            size = self._sizes.pop(key, None)
            self._total -= size or 0
            return size is not None

    def keep(self, key: str) -> None:
        """It is wanted again: a removal that waits for readers is off."""
        with self._lock:
            self._forgotten.discard(key)

    def discard(self, key: str) -> None:
        """Delete it now, whoever reads it: it is damaged."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: str) -> None:
        self._forgotten.discard(key)
        self._total -= self._sizes.pop(key, 0)
        try:
            self.file(key).unlink(missing_ok=True)
        except OSError as error:
            log.error("page content %s could not be deleted: %s", self.file(key), error)

    def _trim(self) -> None:
        *older, _ = self._sizes or (None,)  # the newest stays: somebody has just asked for it
        unread = (key for key in older if key not in self._readers)
        while self._total > self._limit and (key := next(unread, None)) is not None:
            self._remove(key)

    def _scan(self) -> None:
        found = []
        for entry in os.scandir(self.path):
            if entry.name.endswith(SUFFIX):
                status = entry.stat()
                found.append((status.st_mtime, entry.name.removesuffix(SUFFIX), status.st_size))
            elif entry.name.endswith(TEMPORARY_SUFFIX):
                Path(entry.path).unlink(missing_ok=True)
        for _, key, size in sorted(found):
            self._sizes[key] = size
            self._total += size
        self._trim()
