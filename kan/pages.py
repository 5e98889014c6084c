"""What a knowledge page holds, and its form on disk: the K and V of one fact, before RoPE.

Keys are kept before rotation so that any engine can place the fact where its own layout wants it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

CHECKSUM = "crc32"


class PageContentError(Exception):
    """Bytes that are not the page content they should be."""


@dataclass(frozen=True, slots=True)
class PageContent:
    """keys (before RoPE) and values, both [layers, tokens, H_kv, d] in the model's dtype."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        return self.keys.shape[1]


def pack(content: PageContent) -> bytes:
    """Safetensors bytes followed by 4 bytes of CRC-32 over them."""
    body: bytes = save({"keys": content.keys.contiguous(), "values": content.values.contiguous()})
    return body + zlib.crc32(body).to_bytes(4, "big")


def unpack(data: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> PageContent:
    """The inverse of `pack`. PageContentError unless intact and of the expected shape and dtype."""
    body, checksum = data[:-4], data[-4:]
    if zlib.crc32(body).to_bytes(4, "big") != checksum:
        raise PageContentError("checksum does not match")
    try:
        tensors = load(body)
        content = PageContent(tensors["keys"], tensors["values"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise PageContentError(f"not page content: {error}") from error
    for tensor in (content.keys, content.values):
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise PageContentError(f"holds {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
    return content
