"""The console's files, read out of the package once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served; anything else in the package (licences) is not."""
PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """One file as it is served."""

    content: bytes
    media_type: str
    etag: str
    """Strong, quotes included."""


def console_files() -> Mapping[str, ConsoleFile]:
    """By path below `static`."""
    root = resources.files("server.console").joinpath("static")
    return {path: file for path, entry in _walk(root, "") if (file := _read(path, entry)) is not None}


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in directory.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, f"{path}/")
        else:
            yield path, entry


def _read(path: str, entry: Traversable) -> ConsoleFile | None:
    media_type = MEDIA_TYPES.get(path[path.rfind(".") :])
    if media_type is None:
        return None
    content = entry.read_bytes()
    return ConsoleFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
