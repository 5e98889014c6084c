"""API keys: what their files say, read anew when that changes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["client", "admin"]
KEY_NAME = "[A-Za-z0-9._-]{1,64}"
"""Pattern of the name of a key's owner."""
POLL_SECONDS = 0.5
"""How soon a change of a file is seen."""
_LINE = re.compile(f"(?P<name>{KEY_NAME}):(?P<digest>[0-9a-fA-F]{{64}})")
_Stamp = tuple[int, int, int]
"""A file's inode, size and time of change."""
logger = logging.getLogger("kalmagrove.keys")


class KeyFileError(Exception):
    """A key file that cannot be used; the message names file and line, never a key."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Names and SHA-256 digests of the keys of one role. Keys are random strings, so a plain hash will do."""

    digests: tuple[tuple[str, bytes], ...]

    @classmethod
    def read(cls, path: Path) -> KeyRing:
        """One `name:sha256-hex` per line; blank lines and lines starting with # are skipped."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{path}: cannot be read ({type(error).__name__})") from error
        digests = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise KeyFileError(f"{path}, line {number}: expected name:sha256-hex")
            digests.append((match["name"], bytes.fromhex(match["digest"])))
        if not digests:
            raise KeyFileError(f"{path}: holds no key")
        return cls(tuple(digests))

    def find(self, key: str) -> str | None:
        """Name of the key's owner. Takes the same time wherever the key stands, and if it is unknown."""
        digest = hash_key(key)
        found = None
        for name, known in self.digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def hash_key(key: str) -> bytes:
    """What is kept of a key: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class KeyFile:
    """The keys of one role, as their file says now."""

    def __init__(self, path: Path) -> None:
        """Raises KeyFileError."""
        self._path = path
        self._stamp = _stamp(path)
        self.ring = KeyRing.read(path)

    def refresh(self, *, even_unchanged: bool = False) -> None:
        """Read the file anew if it has changed. What cannot be used is logged, and changes nothing."""
        stamp = _stamp(self._path)  # before the reading: a change meanwhile is seen next time
        if stamp == self._stamp and not even_unchanged:
            return
        self._stamp = stamp
        try:
            self.ring = KeyRing.read(self._path)
        except KeyFileError as error:
            logger.error("%s; the keys known before stay valid", error)
        else:
            logger.info("%s: %d keys", self._path, len(self.ring.digests))


class Keys:
    """The keys of both roles. `open()` is True if none are configured: then everybody on this machine may do all."""

    def __init__(self, **files: KeyFile) -> None:
        self._files = files

    @classmethod
    def read(cls, client_file: Path | None, admin_file: Path | None) -> Keys:
        """Raises KeyFileError."""
        paths = {"client": client_file, "admin": admin_file}
        return cls(**{role: KeyFile(path) for role, path in paths.items() if path is not None})

    def open(self) -> bool:
        """True if no keys are configured."""
        return not self._files

    def find(self, role: Role, key: str) -> str | None:
        """Name of the key's owner, if the key has the role."""
        file = self._files.get(role)
        return None if file is None else file.ring.find(key)

    def refresh(self, *, even_unchanged: bool = False) -> None:
        """Follow the files."""
        for file in self._files.values():
            file.refresh(even_unchanged=even_unchanged)

    async def follow(self) -> None:
        """Follow the files until cancelled."""
        while self._files:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
