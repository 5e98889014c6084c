"""What a knowledge page holds, and its form on disk: the K and V of one fact, before RoPE, whole or in 8 or 4 bits.

Keys are kept before rotation so that any engine can place the fact where its own layout wants it.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kan.quantization import GROUPINGS, SCALE_TYPE, Bits, pack_nibbles, unpack_nibbles

CHECKSUM = "crc32"
FORMAT = "format"
VERSION = "2"
"""Of files. Those of another version are refused, and so made again."""
PARTS = ("scales", "least")
"""Names of steps' parts in a file."""
SUFFIX = ".pages"
TEMPORARY_SUFFIX = ".tmp"


class PageContentError(Exception):
    """A file that is not the page content it should be."""


class Stored(Protocol):
    """Page content in the form in which it is kept."""

    def tensors(self) -> Mapping[str, Tensor]:
        """By their names in a file."""
        ...

    def content(self, dtype: torch.dtype) -> PageContent:
        """In a model's numbers."""
        ...


@dataclass(frozen=True, slots=True)
class PageContent:
    """keys (before RoPE) and values, both [layers, tokens, H_kv, d] in the model's dtype."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        return self.keys.shape[1]

    def tensors(self) -> Mapping[str, Tensor]:
        return {"keys": self.keys, "values": self.values}

    def content(self, dtype: torch.dtype) -> PageContent:
        """As it is."""
        assert self.keys.dtype == dtype, "whole content is in the model's numbers"
        return self


@dataclass(frozen=True, slots=True)
class SmallContent:
    """The same in 8 or 4 bits, as `kan.quantization.GROUPINGS` says.

    keys, values   int8 [layers, tokens, H_kv, d]; of 4 bits uint8, packed to [layers, tokens, H_kv, d / 2]
    key_steps      [parts, layers, groups, H_kv, d]
    value_steps    [parts, layers, tokens, H_kv, groups]
    """

    keys: Tensor
    key_steps: Tensor
    values: Tensor
    value_steps: Tensor
    bits: Bits

    @classmethod
    def of(cls, content: PageContent, bits: Bits) -> SmallContent:
        """Rounded: every number by half its scale at most (`kan/quantization.py`)."""
        grouping = GROUPINGS[bits]
        (keys, key_steps), (values, value_steps) = grouping.keys(content.keys), grouping.values(content.values)
        if bits == 4:
            keys, values = pack_nibbles(keys, 3), pack_nibbles(values, 3)
        return cls(keys, key_steps, values, value_steps, bits)

    def content(self, dtype: torch.dtype) -> PageContent:
        """In a model's numbers."""
        grouping, keys, values = GROUPINGS[self.bits], self.keys, self.values
        if self.bits == 4:
            keys, values = unpack_nibbles(keys, 3), unpack_nibbles(values, 3)
        return PageContent(
            grouping.widen_keys(keys, self.key_steps, dtype), grouping.widen_values(values, self.value_steps, dtype)
        )

    def tensors(self) -> Mapping[str, Tensor]:
        steps = {"key": self.key_steps, "value": self.value_steps}
        named = {f"{of}_{part}": one for of, parts in steps.items() for part, one in zip(PARTS, parts, strict=False)}
        return {"keys": self.keys, "values": self.values, **named}


def stored_bytes(content: Stored) -> int:
    """Of its numbers."""
    return sum(tensor.nbytes for tensor in content.tensors().values())


def page_path(directory: Path, key: str) -> Path:
    """Where the page content of this key lies."""
    return directory / f"{key}{SUFFIX}"


def pack(content: Stored) -> bytes:
    """As safetensors, with version and checksum in their metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in content.tensors().items()}
    packed: bytes = save(tensors, {CHECKSUM: _checksum(tensors), FORMAT: VERSION})
    return packed


def write_pages(path: Path, content: Stored) -> None:
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
    tensors = _intact(path)
    return PageContent(*(_required(tensors, name, shape, dtype) for name in ("keys", "values")))


def read_small_pages(path: Path, shape: tuple[int, ...], bits: Bits) -> SmallContent:
    """The same for content in so few bits; `shape` is that of its keys as they were."""
    tensors, grouping = _intact(path), GROUPINGS[bits]
    layers, tokens, heads, d = shape
    stored, kind = (shape, torch.int8) if bits == 8 else ((layers, tokens, heads, d // 2), torch.uint8)
    names = PARTS[: grouping.parts]
    of_keys, of_values = (
        (layers, grouping.key_groups(tokens), heads, d),
        (layers, tokens, heads, grouping.value_groups(d)),
    )
    return SmallContent(
        _required(tensors, "keys", stored, kind),
        torch.stack([_required(tensors, f"key_{part}", of_keys, SCALE_TYPE) for part in names]),
        _required(tensors, "values", stored, kind),
        torch.stack([_required(tensors, f"value_{part}", of_values, SCALE_TYPE) for part in names]),
        bits,
    )


def is_intact(path: Path) -> bool:
    """True if the file is there and holds page content, of whatever form and shape, as it was written."""
    try:
        _intact(path)
    except (OSError, PageContentError):
        return False
    return True


def _intact(path: Path) -> Mapping[str, Tensor]:
    """The file's tensors. Raises OSError or PageContentError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, ValueError) as error:
        raise PageContentError(f"not page content: {error}") from error
    if metadata.get(FORMAT) != VERSION:
        raise PageContentError(f"is of format {metadata.get(FORMAT, '1')}, not {VERSION}")
    if metadata.get(CHECKSUM) != _checksum(tensors):
        raise PageContentError("checksum does not match")
    return tensors


def _required(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise PageContentError(f"holds no {name}")
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise PageContentError(f"holds {name} {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
    return tensor


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 (hex) over the names and numbers of all."""
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(name.encode(), found)
        found = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
