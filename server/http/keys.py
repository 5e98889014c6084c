"""API keys: what their files say, read anew when that changes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.http.key_line import KEY_NAME, Owner, owner_of

Role = Literal["client", "admin"]
POLL_SECONDS = 0.5
"""How soon a change of a file is seen."""
_LINE = re.compile(f"(?P<name>{KEY_NAME}):(?P<digest>[0-9a-fA-F]{{64}})(?P<options>.*)")
_Stamp = tuple[int, int, int]
"""A file's inode, size and time of change."""
logger = logging.getLogger("kalmagrove.keys")


class KeyFileError(Exception):
    """A key file that cannot be used; the message names file and line, never a key."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Owners and SHA-256 digests of the keys of one role. Keys are random strings, so a plain hash will do."""

    keys: tuple[tuple[Owner, bytes], ...]
    weights: Mapping[str, float]
    """By owner; of those of whom the file says it."""

    @classmethod
    def read(cls, path: Path) -> KeyRing:
        """Blank lines and lines starting with # are skipped. Raises KeyFileError."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{path}: cannot be read ({type(error).__name__})") from error
        keys: list[tuple[Owner, bytes]] = []
        weights: dict[str, float | None] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise KeyFileError(f"{path}, line {number}: expected name:sha256-hex")
            try:
                owner = owner_of(match["name"], match["options"])
            except ValueError as error:
                raise KeyFileError(f"{path}, line {number}: {error}") from error
            if weights.setdefault(owner.name, owner.weight) != owner.weight:
                raise KeyFileError(f"{path}, line {number}: another weight of {owner.name} than before")
            keys.append((owner, bytes.fromhex(match["digest"])))
        if not keys:
            raise KeyFileError(f"{path}: holds no key")
        return cls(tuple(keys), {name: weight for name, weight in weights.items() if weight is not None})

    def find(self, key: str) -> Owner | None:
        """The key's owner. Takes the same time wherever the key stands, and if it is unknown."""
        digest = hash_key(key)
        found = None
        for owner, known in self.keys:
            if hmac.compare_digest(digest, known):
                found = owner
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
            logger.info("%s: %d keys", self._path, len(self.ring.keys))


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

    def bound(self) -> bool:
        """True if there is a key that is bound to namespaces."""
        return any(not owner.access.whole for file in self._files.values() for owner, _ in file.ring.keys)

    def find(self, role: Role, key: str) -> Owner | None:
        """The key's owner, if the key has the role."""
        file = self._files.get(role)
        return None if file is None else file.ring.find(key)

    def weight(self, name: str) -> float | None:
        """An owner's, as the files say now: the clients' first. None: neither says."""
        found = (file.ring.weights.get(name) for file in self._files.values())
        return next((weight for weight in found if weight is not None), None)

    def refresh(self, *, even_unchanged: bool = False) -> None:
        """Follow the files."""
        for file in self._files.values():
            file.refresh(even_unchanged=even_unchanged)

    async def follow(self) -> None:
        """Follow the files until cancelled."""
        while self._files:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()


class KeyWeights(Mapping[str, float]):
    """Shares of callers by name: what the key files say now, else what the settings say."""

    def __init__(self, keys: Keys, settings: Mapping[str, float]) -> None:
        self._keys = keys
        self._settings = settings

    def __getitem__(self, name: str) -> float:
        weight = self._keys.weight(name)
        return self._settings[name] if weight is None else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
