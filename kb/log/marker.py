"""The head marker: an independent record of the newest acknowledged version.

SQLite recovers from a damaged write-ahead log by dropping everything after the damage, silently. That would
lose acknowledged edits without a trace, so before each acknowledgement the new head is also written here, to
one of two slots in turn: whichever write a crash tears, the other slot still holds.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kb.durable import sync
from kb.errors import StoreCorrupt
from kb.log.batch import GENESIS

_MAGIC = b"KBHEAD01"
_BODY = struct.Struct(">8sQ32s")
_SLOT = _BODY.size + 32
_ADVICE = "restore it and the database from one backup, or accept the log as it is: kalmagrove kb accept-log"
_STRIDE = 4096  # the slots lie in different sectors and pages


@dataclass(frozen=True, slots=True)
class Head:
    """A version and the hash chain there."""

    version: int
    chain: bytes


_START = Head(0, GENESIS)


def acknowledged(path: Path) -> Head | None:
    """The newest acknowledged head, perhaps of another process's store; None when there is none, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return _newest([_slot(data[start : start + _SLOT]) for start in (0, _STRIDE)])


def _newest(slots: Iterable[Head | None]) -> Head | None:
    return max((slot for slot in slots if slot), key=lambda slot: slot.version, default=None)


def _slot(block: bytes) -> Head | None:
    if len(block) < _SLOT or hashlib.sha256(block[: _BODY.size]).digest() != block[_BODY.size :]:
        return None
    magic, version, chain = _BODY.unpack(block[: _BODY.size])
    return Head(version, chain) if magic == _MAGIC else None


class HeadMarker:
    """The open marker file. Not thread-safe: used by the store's one writer."""

    def __init__(self, path: Path) -> None:
        """Opens the file; a missing one is made holding version 0 (`existed` tells)."""
        self.path = path
        self.existed = path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._slots = (self._read(0), self._read(1))

    def create(self, head: Head = _START) -> None:
        """Makes a marker for a store that is empty, or is to hold this; durable before the database exists."""
        self.restore(head)
        sync(self.path.parent)

    @property
    def head(self) -> Head | None:
        """The newest acknowledged head; None when both slots are damaged."""
        return _newest(self._slots)

    @property
    def most_ahead(self) -> int:
        """By how many versions the log may be ahead of `head`.

        One batch may have been logged and not acknowledged; a damaged slot may have held the newest
        acknowledged one.
        """
        return 1 if all(self._slots) else 2

    def check(self, log_head: Head, chain_there: bytes | None, database: Path) -> None:
        """Raises StoreCorrupt unless the log, whose chain at the marker's version is given, fits."""
        head = self.head
        if head is None:
            if log_head.version == 0:
                return
            raise StoreCorrupt(
                self.path,
                f"is missing or damaged, so acknowledged edits may be missing from the log unnoticed; {_ADVICE}",
            )
        if log_head.version < head.version:
            raise StoreCorrupt(
                database,
                f"lost its end: version {head.version} was acknowledged, the log stops at {log_head.version}",
            )
        if chain_there != head.chain:
            raise StoreCorrupt(database, f"its content at version {head.version} is not what was acknowledged")
        if log_head.version > head.version + self.most_ahead:
            raise StoreCorrupt(
                self.path,
                f"is of an older copy: it says {head.version}, the log {log_head.version}; {_ADVICE}",
            )

    def advance(self, head: Head) -> None:
        """Makes `head` durable in the slot of its turn. Raises OSError; the other slot is untouched then."""
        self._write(head.version % 2, head)

    def restore(self, head: Head) -> None:
        """Writes both slots, a damaged one first, so that one of them always holds. Raises OSError."""
        for slot in sorted((0, 1), key=lambda slot: self._slots[slot] is not None):
            self._write(slot, head)

    def repair(self, head: Head) -> None:
        """Brings the file up to `head` after `check`, which may find it a batch behind or half damaged."""
        if not all(self._slots):
            self.restore(head)
        elif self.head != head:
            self.advance(head)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _write(self, slot: int, head: Head) -> None:
        body = _BODY.pack(_MAGIC, head.version, head.chain)
        block = (body + hashlib.sha256(body).digest()).ljust(_STRIDE, b"\0")
        written = os.pwrite(self._file, block, slot * _STRIDE)
        if written != len(block):
            raise OSError(f"{self.path}: wrote {written} of {len(block)} bytes")
        os.fdatasync(self._file)
        self._slots = (head, self._slots[1]) if slot == 0 else (self._slots[0], head)

    def _read(self, slot: int) -> Head | None:
        return _slot(os.pread(self._file, _SLOT, slot * _STRIDE))
