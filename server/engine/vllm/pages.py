"""Page content on disk as vLLM's workers write and read it: one directory, or one per pipeline stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kan.knowledge.pages import is_intact
from server.engine.pages.page_directory import PageDirectory


class StagedPages:
    """A fact is there when every stage has its layers of it. See `PageDirectory` for the methods."""

    def __init__(self, directories: Sequence[Path], limit_bytes: int) -> None:
        self._stages = [PageDirectory(directory, limit_bytes // len(directories)) for directory in directories]

    def __contains__(self, key: str) -> bool:
        return all(key in stage for stage in self._stages)

    def touch(self, key: str) -> bool:
        touched = [stage.touch(key) for stage in self._stages]
        return all(touched)

    def adopt(self, key: str) -> None:
        for stage in self._stages:
            stage.adopt(key)

    def retain(self, keys: Iterable[str]) -> None:
        held = tuple(keys)
        for stage in self._stages:
            stage.retain(held)

    def release(self, keys: Iterable[str]) -> None:
        held = tuple(keys)
        for stage in self._stages:
            stage.release(held)

    def remove(self, key: str) -> None:
        for stage in self._stages:
            stage.remove(key)

    def keep(self, key: str) -> None:
        for stage in self._stages:
            stage.keep(key)

    def discard_damaged(self, keys: Iterable[str]) -> None:
        """Delete those that are not whole, whoever wants to read them."""
        for key in keys:
            for stage in self._stages:
                if not is_intact(stage.file(key)):
                    stage.discard(key)
