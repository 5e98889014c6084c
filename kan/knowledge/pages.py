"""What a knowledge page holds, and its form on disk: the K and V of one fact, before RoPE.

Keys are kept before rotation so that any engine can place the fact where its own layout wants it.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

CHECKSUM = "crc32"
SUFFIX = ".pages"
TEMPORARY_SUFFIX = ".tmp"


class PageContentError(Exception):
    """A file that is not the page content it should be."""


@dataclass(frozen=True, slots=True)
class PageContent:
    """keys (before RoPE) and values, both [layers, tokens, H_kv, d] in the model's dtype."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        return self.keys.shape[1]

    @property
    def checksum(self) -> str:
        """CRC-32 (hex) over the numbers of both."""
        found = 0
        for tensor in (self.keys, self.values):
            found = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, found)
        return f"{found:08x}"


def page_path(directory: Path, key: str) -> Path:
    """Where the page content of this key lies."""
    return directory / f"{key}{SUFFIX}"


def pack(content: PageContent) -> bytes:
    """As safetensors, with the checksum in their metadata."""
    tensors = {"keys": content.keys.contiguous(), "values": content.values.contiguous()}
    packed: bytes = save(tensors, {CHECKSUM: content.checksum})
    return packed


def write_pages(path: Path, content: PageContent) -> None:
    """Raises OSError."""
    write_whole(path, pack(content))


def write_whole(path: Path, data: bytes) -> None:
    """Whole under its name or not at all, whoever else writes the same. Raises OSError."""
    descriptor, name = tempfile.mkstemp(TEMPORARY_SUFFIX, f".{path.stem}.", path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_pages(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> PageContent:
    """The inverse, mapped into memory rather than copied. Raises OSError.

    PageContentError unless intact and of the expected shape and dtype.
    """
    content, checksum = _opened(path)
    for tensor in (content.keys, content.values):
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise PageContentError(f"holds {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
    if checksum != content.checksum:
        raise PageContentError("checksum does not match")
    return content


def is_intact(path: Path) -> bool:
    """True if the file is there and holds page content, of whatever shape, as it was written."""
    try:
        content, checksum = _opened(path)
    except (OSError, PageContentError):
        return False
    return checksum == content.checksum


def _opened(path: Path) -> tuple[PageContent, str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get(CHECKSUM)
            return PageContent(file.get_tensor("keys"), file.get_tensor("values")), checksum
    except (SafetensorError, KeyError, ValueError) as error:
        raise PageContentError(f"not page content: {error}") from error
