"""The ids of a segment's rows: one array of bytes, which may be mapped, rather than an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Names = NDArray[np.bytes_]
_CHUNK = 4096


class Ids(Sequence[str]):
    """Immutable. In UTF-8, whose bytes are in the order of code points; NUL, which is in no id, fills short ones up."""

    def __init__(self, names: Names) -> None:
        self.names = names

    @classmethod
    def of(cls, ids: Iterable[str]) -> Ids:
        """Of these strings."""
        return cls(names_of(ids))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: Any) -> Any:
        """The id of one row. For more see `at`."""
        return self.names[row].decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.names), _CHUNK):
            yield from map(bytes.decode, self.names[start : start + _CHUNK].tolist())

    def at(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of some rows."""
        return list(map(bytes.decode, self.names[rows].tolist()))


def names_of(ids: Iterable[str]) -> Names:
    """The array of these strings."""
    return np.array([one.encode() for one in ids], np.bytes_)
