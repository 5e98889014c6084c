"""What facts carry besides their text: a JSON object, checked and encoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import orjson

from kb.facts import JSON

_INTEGERS = range(-(2**63), 2**64)
"""What 64 bits hold, with or without a sign; JSON readers round what lies beyond."""


def encode_metadata(metadata: Mapping[str, JSON]) -> bytes:
    """Compact JSON; keys keep their order."""
    return orjson.dumps(dict(metadata))


def decode_metadata(encoded: bytes | str) -> dict[str, JSON]:
    """The object that `encode_metadata` wrote. Raises ValueError when it is none."""
    decoded: Any = orjson.loads(encoded)
    if not isinstance(decoded, dict):
        raise ValueError("metadata is not a JSON object")
    return cast("dict[str, JSON]", decoded)


def normalised_metadata(metadata: object, longest: int, depth: int) -> dict[str, JSON]:
    """A copy that the caller cannot change any more. `longest` is in bytes of JSON.

    Raises ValueError saying what is wrong.
    """
    if not isinstance(metadata, Mapping):
        raise ValueError(f"must be an object, not {type(metadata).__name__}")
    plain = dict(metadata)
    _check_json(plain, depth)
    try:
        encoded = encode_metadata(plain)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if len(encoded) > longest:
        raise ValueError(f"must be at most {longest} bytes of JSON, is {len(encoded)}")
    return decode_metadata(encoded)


def has_surrogate(text: str) -> bool:
    """Whether it holds half a UTF-16 pair, which UTF-8 cannot say."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _check_json(value: object, depth: int) -> None:
    if not isinstance(value, (dict, list)):
        _check_scalar(value)
        return
    if depth == 0:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise ValueError("keys must be strings")
            _check_scalar(name)
    for child in value.values() if isinstance(value, dict) else value:
        _check_json(child, depth - 1)


def _check_scalar(value: object) -> None:
    if not isinstance(value, (str, int, float, type(None))):
        raise ValueError(f"{type(value).__name__} is not JSON")
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("integers must fit into 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    if isinstance(value, str) and ("\0" in value or has_surrogate(value)):
        raise ValueError("strings must not contain NUL or lone surrogates")
