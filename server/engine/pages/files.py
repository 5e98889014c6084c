"""The files of page content: one directory, or one per pipeline stage, each with its layers of every fact.

A cache: losing any of it costs only time. Nothing here waits for the disk but `read`, `adopt` and the janitor's thread.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from kan.knowledge.pages import (
    SUFFIX,
    TEMPORARY_SUFFIX,
    PageContentError,
    Stored,
    is_intact,
    page_path,
    stored_bytes,
    write_pages,
)
from server.engine.pages.complaints import Complaints
from server.engine.pages.janitor import MAX_WRITES, Janitor
from server.engine.pages.life import PageLife, State
from server.engine.pages.sharing import SharedDirectory

log = logging.getLogger(__name__)

T = TypeVar("T")
SWEEP_SECONDS = 60.0
"""Between two searches for files that should not be there."""
REFUSED_SECONDS = 60.0
"""After a write that failed, until more is made for the disk unasked."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class PageFiles:
    """Any thread may call it. Without directories nothing is kept on disk.

    Files take no more than `limit_bytes`, and leave `reserve_bytes` of the disk free: the knowledge's log comes first.
    """

    def __init__(self, directories: Sequence[Path], limit_bytes: int = 0, reserve_bytes: int = 0) -> None:
        """Finds what earlier processes left. Raises OSError."""
        self._directories = tuple(directories)
        self._reserve = reserve_bytes
        self._short = False
        """Whether the disk had less than its reserve when it was last looked at."""
        self._refused: float | None = None
        """When the disk last took no content, if none was taken since."""
        self._complaints = Complaints(log)
        self._swept = time.monotonic()
        self._janitor = Janitor(self._look) if self._directories else None
        self.life = PageLife(limit_bytes, self._order_removal)
        for directory in self._directories:
            directory.mkdir(parents=True, exist_ok=True)
        self._shared = [SharedDirectory(directory) for directory in self._directories]
        if self.alone():
            self._remove_half_written(0.0)
        self._reconcile(None)

    @property
    def has_room(self) -> bool:
        """Whether what is written now will be kept, and soon written, without other content having to go. False
        without directories."""
        if self._janitor is None or self._short or self.life.full:
            return False
        if self._refused is not None and time.monotonic() - self._refused < REFUSED_SECONDS:
            return False
        return self._janitor.backlog < MAX_WRITES // 2

    def read(self, key: str, read: Callable[[Path], T]) -> T | None:
        """What `read` makes of the file, or None if it is not there or damaged: a file that is none for `read`, by its
        PageContentError, is removed. Of one directory."""
        if not self.life.touch(key):
            return None
        path = page_path(self._directories[0], key)
        try:
            return read(path)
        except (OSError, PageContentError) as error:
            what = "page content %s is unusable and will be made again: %s"
            self._complaints.tell(logging.WARNING, what, path, error)
            self._discard(key)
            return None

    def read_ahead(self, keys: Iterable[str]) -> None:
        """They are about to be read: the system begins with those files that are not in memory. Nothing is waited for,
        and nothing fails."""
        for key in keys:
            for path in self._paths(key) if self.life.is_cold(key) else ():
                with suppress(OSError), path.open("rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def write(self, key: str, content: Callable[[], Stored]) -> None:
        """Keep it if there is room; returns at once. `content` is called on the janitor's thread."""
        if self._janitor is None:
            return
        self.life.writing(key)
        if not self._janitor.write(key, partial(self._write, key, content)):
            log.debug("page content %s not kept on disk: too much waits to be written", key)
            self.life.written(key)

    def expect(self, key: str) -> None:
        """Another process is about to write this file: a removal that was not begun is off."""
        if self._janitor is not None:
            self._janitor.cancel(key)

    def adopt(self, key: str) -> bool:
        """Another process has written it. False if nobody has a use for it any more. Raises OSError if it has not."""
        return self.life.stored(key, self._size(key))

    def discard_damaged(self, keys: Iterable[str]) -> None:
        """Delete those that are not whole, whoever wants to read them. Reads them all."""
        for key in keys:
            if not all(is_intact(path) for path in self._paths(key)):
                self._discard(key)

    def alone(self) -> bool:
        """True if no other process uses these directories: what no fact of ours has, nobody's has."""
        return all(shared.alone() for shared in self._shared)

    def reconcile(self, held: Collection[str] | None = None) -> None:
        """Make books and disk agree, on the janitor's thread. A file that is in no book is taken in if its key is among
        `held` (None: every key is), and deleted if not."""
        if self._janitor is not None:
            self._janitor.remove("", partial(self._reconcile, held))

    def flush(self) -> None:
        """Wait until everything ordered so far is done."""
        if self._janitor is not None:
            self._janitor.flush()

    def close(self) -> None:
        """Write what is ordered, for a bounded time, and stop."""
        if self._janitor is not None:
            self._janitor.close()
        for shared in self._shared:
            shared.close()

    def _remove_half_written(self, seconds: float) -> None:
        """Those that nobody has written to for so long."""
        for directory in self._directories:
            for path in directory.glob(f"*{TEMPORARY_SUFFIX}"):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime >= seconds:
                        path.unlink()

    def _paths(self, key: str) -> list[Path]:
        return [page_path(directory, key) for directory in self._directories]

    def _size(self, key: str) -> int:
        return sum(path.stat().st_size for path in self._paths(key))

    def _discard(self, key: str) -> None:
        self.life.missing(key)
        self._order_removal(key)

    def _order_removal(self, key: str) -> None:
        if self._janitor is not None:
            self._janitor.remove(key, partial(self._unlink, key))

    # --- on the janitor's thread ---

    def _look(self) -> None:
        self._keep_reserve()
        if time.monotonic() - self._swept >= SWEEP_SECONDS and self.alone():
            self._swept = time.monotonic()
            self._remove_half_written(SWEEP_SECONDS)
            self._remove_orphans()

    def _remove_orphans(self) -> None:
        """Files that are in no book: what could not be deleted when it should have been."""
        for key, _ in list(self._found()):
            if self.life.state(key) is None:
                self._unlink(key)

    def _unlink(self, key: str) -> None:
        for path in self._paths(key):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._complaints.tell(logging.ERROR, "page content %s could not be deleted: %s", path, error)

    def _write(self, key: str, content: Callable[[], Stored]) -> None:
        try:
            if self.life.state(key) is not State.FORGOTTEN and self._keep_reserve() <= 0:
                self._write_whole(key, content())
                self.life.stored(key, self._size(key))
        finally:
            self.life.written(key)

    def _write_whole(self, key: str, content: Stored) -> None:
        directory = self._directories[0]
        try:
            directory.mkdir(parents=True, exist_ok=True)  # it may have been removed
            write_pages(page_path(directory, key), content)
            self._refused = None
        except OSError as error:
            self._refused = time.monotonic()
            if error.errno in FULL:
                self.life.trim(2 * stored_bytes(content))
            raise

    def _keep_reserve(self) -> int:
        """Files give way until the disk has its reserve; the bytes that were short."""
        try:
            short = self._reserve - min(shutil.disk_usage(directory).free for directory in self._directories)
        except FileNotFoundError:
            return 0
        self._short = short > 0
        self.life.trim(short)
        return short

    def _reconcile(self, held: Collection[str] | None) -> None:
        found = dict(self._found())
        for key in self.life.stored_keys():
            if key not in found and not all(path.exists() for path in self._paths(key)):
                self.life.missing(key)
        for key, size in found.items():
            if self.life.state(key) is not None:
                continue
            if size is None or (held is not None and key not in held):
                self._unlink(key)
            else:
                self.life.making(key)
                self.life.stored(key, size)

    def _found(self) -> Iterator[tuple[str, int | None]]:
        """Keys and sizes, the longest unused first. None: not there in every directory."""
        ages: dict[str, float] = {}
        for directory in self._directories:
            for entry in os.scandir(directory) if directory.is_dir() else ():
                if entry.name.endswith(SUFFIX):
                    ages[entry.name.removesuffix(SUFFIX)] = entry.stat().st_mtime
        for key in sorted(ages, key=ages.__getitem__):
            try:
                yield key, self._size(key)
            except OSError:
                yield key, None
