"""Checks untrusted changes: a batch that may be committed, or what is wrong with which change."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
from ulid import ULID

from kb.facts import JSON, Change, Delete, InvalidChange, Limits, Upsert

# The first character is a letter or digit, so that no id is "." or ".." in a URL path.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@~-]*")
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that ISO 8601 with four digits can say


def validate_batch(changes: Sequence[Change], limits: Limits) -> tuple[Change, ...]:
    """The same changes, checked and normalised, with an id made for each upsert that has none.

    Raises InvalidChange naming the change and the field.
    """
    if not changes:
        raise InvalidChange(0, "changes", "a batch holds at least one change")
    if len(changes) > limits.batch_changes:
        message = f"a batch holds at most {limits.batch_changes} changes, got {len(changes)}"
        raise InvalidChange(limits.batch_changes, "changes", message)
    checked = tuple(validate_change(change, limits, index) for index, change in enumerate(changes))
    seen: dict[tuple[str, str | None], int] = {}
    for index, change in enumerate(checked):
        first = seen.setdefault((change.namespace, change.id), index)
        if first != index:
            raise InvalidChange(index, "id", f"{change.id!r} is also changed by change {first} of the batch")
    return checked


def validate_change(change: Change, limits: Limits, index: int = 0) -> Change:
    """One change, checked and normalised; raises InvalidChange carrying `index`."""
    if isinstance(change, Delete):
        _check_name(index, "namespace", change.namespace, limits.namespace_chars)
        _check_name(index, "id", change.id, limits.id_chars)
        return change
    if not isinstance(change, Upsert):
        raise InvalidChange(index, "changes", f"neither an upsert nor a delete: {type(change).__name__}")
    _check_name(index, "namespace", change.namespace, limits.namespace_chars)
    fact_id = str(ULID()) if change.id is None else change.id
    _check_name(index, "id", fact_id, limits.id_chars)
    _check_text(index, change.text, limits.text_chars)
    return Upsert(
        id=fact_id,
        namespace=change.namespace,
        text=change.text,
        metadata=_checked_metadata(index, change.metadata, limits),
        expires_at=_checked_expiry(index, change.expires_at),
    )


def _check_name(index: int, field: str, name: object, longest: int) -> None:
    if not isinstance(name, str):
        raise InvalidChange(index, field, f"must be a string, not {type(name).__name__}")
    if not 0 < len(name) <= longest:
        raise InvalidChange(index, field, f"must have 1 to {longest} characters, has {len(name)}")
    if _NAME.fullmatch(name) is None:
        raise InvalidChange(index, field, "must be ASCII letters, digits and ._:@~-, a letter or digit first")


def _check_text(index: int, text: object, longest: int) -> None:
    if not isinstance(text, str):
        raise InvalidChange(index, "text", f"must be a string, not {type(text).__name__}")
    if len(text) > longest:
        raise InvalidChange(index, "text", f"must have at most {longest} characters, has {len(text)}")
    if not text.strip():
        raise InvalidChange(index, "text", "must not be empty")
    if "\0" in text:
        raise InvalidChange(index, "text", "must not contain NUL")
    if _has_surrogate(text):
        raise InvalidChange(index, "text", "must not contain lone surrogates")


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _checked_expiry(index: int, expires_at: object) -> float | None:
    if expires_at is None:
        return None
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
        raise InvalidChange(index, "expires_at", "must be unix seconds or null")
    if not 0 <= expires_at <= _LAST_SECOND:  # also refuses NaN
        raise InvalidChange(index, "expires_at", f"must lie between 0 and {_LAST_SECOND} unix seconds")
    # Microseconds are what ISO 8601 carries in an export, so that is what the store keeps.
    return round(float(expires_at), 6)


def _checked_metadata(index: int, metadata: object, limits: Limits) -> dict[str, JSON]:
    if not isinstance(metadata, Mapping):
        raise InvalidChange(index, "metadata", f"must be an object, not {type(metadata).__name__}")
    plain = dict(metadata)
    _check_json(index, plain, limits.metadata_depth)
    try:
        encoded = encode_metadata(plain)
    except (TypeError, ValueError) as error:
        raise InvalidChange(index, "metadata", str(error)) from error
    if len(encoded) > limits.metadata_bytes:
        message = f"must be at most {limits.metadata_bytes} bytes of JSON, is {len(encoded)}"
        raise InvalidChange(index, "metadata", message)
    return decode_metadata(encoded)  # a copy that the caller cannot change any more


def _check_json(index: int, value: object, depth: int) -> None:
    wrong = _wrong_in_scalar(value)
    if isinstance(value, (dict, list)):
        wrong = "is nested too deeply" if depth == 0 else None
    if isinstance(value, dict) and not all(isinstance(name, str) for name in value):
        wrong = "keys must be strings"
    if wrong is not None:
        raise InvalidChange(index, "metadata", wrong)
    if isinstance(value, dict):
        for name, child in value.items():
            _check_json(index, name, depth)
            _check_json(index, child, depth - 1)
    if isinstance(value, list):
        for child in value:
            _check_json(index, child, depth - 1)


def _wrong_in_scalar(value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "numbers must be finite"
    if isinstance(value, str) and ("\0" in value or _has_surrogate(value)):
        return "strings must not contain NUL or lone surrogates"
    if not isinstance(value, (str, int, float, type(None))):
        return f"{type(value).__name__} is not JSON"
    return None


def encode_metadata(metadata: Mapping[str, JSON]) -> bytes:
    """Compact JSON; keys keep their order."""
    return orjson.dumps(dict(metadata))


def decode_metadata(encoded: bytes | str) -> dict[str, JSON]:
    """The object that `encode_metadata` wrote. Raises ValueError when it is none."""
    decoded: Any = orjson.loads(encoded)
    if not isinstance(decoded, dict):
        raise ValueError("metadata is not a JSON object")
    return cast("dict[str, JSON]", decoded)
