"""Arrays in one file, one behind the other, that are mapped into memory together: one file handle for them all."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Place = tuple[str, tuple[int, ...], int]
"""dtype, shape and first byte of an array."""
_ALIGNED: Final = 64
_WRITTEN_AT_ONCE: Final = 1 << 25
"""Bytes after which the disk is waited for: else whoever makes an edit durable meanwhile waits for all of them."""


class ColumnWriter:
    """Writes a file from its beginning to its end. Raises OSError.

    Never through a mapping: a full disk fails a write, but kills (SIGBUS) whoever stores into a mapping.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._unsynced = 0
        self.places: dict[str, Place] = {}
        """What `mapped` must be told."""

    def add(self, name: str, chunks: Iterable[Array], shape: tuple[int, ...]) -> None:
        """An array of this shape in slices along its first axis."""
        start = -(-self._file.tell() // _ALIGNED) * _ALIGNED
        self._file.write(bytes(start - self._file.tell()))
        kind = np.dtype(np.uint8)
        for chunk in chunks:
            kind = chunk.dtype
            self._write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
        self.places[name] = (kind.str, shape, start)

    def _write(self, data: memoryview) -> None:
        for start in range(0, len(data), _WRITTEN_AT_ONCE):
            some = data[start : start + _WRITTEN_AT_ONCE]
            self._file.write(some)
            self._unsynced += len(some)
            if self._unsynced >= _WRITTEN_AT_ONCE:
                self._file.flush()
                os.fdatasync(self._file.fileno())
                self._unsynced = 0

    def flush(self) -> None:
        """So that what was added can be read."""
        self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mapped(path: Path, places: Mapping[str, Place]) -> dict[str, Array]:
    """The arrays of a file, read only. Raises OSError, ValueError where it is too short."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, (kind, shape, start) in places.items():
        dtype, count = np.dtype(kind), int(np.prod(shape))
        arrays[name] = np.frombuffer(data, dtype, count, start).reshape(shape) if count else np.empty(shape, dtype)
    return arrays
