"""Facts as NDJSON: one JSON object a line, streamed both ways.

    {"id": "ceo", "namespace": "default", "text": "…", "metadata": {}, "expires_at": "2031-01-01T00:00:00Z"}

Only `text` is required. A line `{"op": "delete", "id": "ceo"}` deletes. Times are ISO 8601; outside files the
store counts unix seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic_core import from_json

from kb.facts import DEFAULT_NAMESPACE, Change, Delete, Fact, InvalidChange, InvalidLine, Limits, Upsert
from kb.validation import validate_change

_UPSERT_FIELDS = frozenset({"op", "id", "namespace", "text", "metadata", "expires_at"})
_DELETE_FIELDS = frozenset({"op", "id", "namespace"})
_SAYING = re.compile(rb"\S[^\n]*")
"""From a line's first character that is no white space to its end. Linear, whatever the text."""


@dataclass(frozen=True, slots=True)
class NumberedBatch:
    """Changes of neighbouring lines; `last_line` counts from 1."""

    changes: tuple[Change, ...]
    last_line: int


def export_lines(facts: Iterable[Fact]) -> Iterator[bytes]:
    """One line per fact, ended by a newline. `read_batches` reads it back to the same facts."""
    for fact in facts:
        expires_at = None if fact.expires_at is None else format_time(fact.expires_at)
        record = {
            "id": fact.id,
            "namespace": fact.namespace,
            "text": fact.text,
            "metadata": dict(fact.metadata),
            "expires_at": expires_at,
        }
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def read_batches(
    chunks: Iterable[bytes],
    *,
    limits: Limits | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    longest_line: int = 65_536,
) -> Iterator[NumberedBatch]:
    """Validated changes of an NDJSON stream, in batches that the store takes; lazily, in bounded memory.

    `chunks` may break anywhere (a file, an HTTP body); blank lines are skipped. `namespace` is for lines that
    name none; `longest_line` is in bytes. Of two lines for one fact the later wins: they never share a batch.

    Raises InvalidLine; batches given before it are complete.
    """
    limits = limits or Limits()
    batch: dict[tuple[str, str | None], Change] = {}
    last_line = 0
    for number, line in _lines(chunks, longest_line):
        change = _change(number, line, namespace, limits)
        key = (change.namespace, change.id)
        if batch and (key in batch or len(batch) == limits.batch_changes):
            yield NumberedBatch(tuple(batch.values()), last_line)
            batch = {}
        batch[key] = change
        last_line = number
    if batch:
        yield NumberedBatch(tuple(batch.values()), last_line)


def format_time(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """ISO 8601 with an offset, as unix seconds. Raises ValueError."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("must have an offset from UTC, such as Z")
    return time.timestamp()


def _lines(chunks: Iterable[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """Those that say something, numbered from 1 among all. Raises InvalidLine for one that is too long."""
    before, rest = 0, b""
    for chunk in chunks:
        text = rest + chunk
        end = text.rfind(b"\n") + 1
        yield from _lines_of(text[:end], before, longest)
        before, rest = before + text.count(b"\n"), text[end:]
        if len(rest) > longest:
            break
    yield from _lines_of(rest, before, longest)


def _lines_of(text: bytes, before: int, longest: int) -> Iterator[tuple[int, bytes]]:
    """Of a text whose first line is number `before` + 1. Nothing is done for each blank line: a gigabyte of them comes
    in a megabyte of gzip."""
    place = 0
    for match in _SAYING.finditer(text):
        start = text.rfind(b"\n", place, match.start()) + 1 or place
        _check_blank(text, place, start, before, longest)
        before += text.count(b"\n", place, start)
        line = text[start : match.end()]
        if len(line) > longest:
            raise _too_long(before + 1, longest)
        yield before + 1, line
        place = match.end()
    _check_blank(text, place, len(text), before, longest)


def _check_blank(text: bytes, start: int, end: int, before: int, longest: int) -> None:
    """White space counts where it makes a line too long."""
    if end - start > longest:
        for number, line in enumerate(text[start:end].split(b"\n"), before + 1):
            if len(line) > longest:
                raise _too_long(number, longest)


def _too_long(number: int, longest: int) -> InvalidLine:
    return InvalidLine(number, None, f"is longer than {longest} bytes")


def _change(number: int, line: bytes, namespace: str, limits: Limits) -> Change:
    try:
        # Not orjson, which rounds integers beyond 64 bits instead of telling them from others.
        record: Any = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidLine(number, None, f"is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise InvalidLine(number, None, "is not a JSON object")
    deletes = record.get("op", "upsert") == "delete"
    if not deletes and record.get("op", "upsert") != "upsert":
        raise InvalidLine(number, "op", 'must be "upsert" or "delete"')
    unknown = sorted(record.keys() - (_DELETE_FIELDS if deletes else _UPSERT_FIELDS))
    if unknown:
        raise InvalidLine(number, unknown[0], "is not a field")
    space = record.get("namespace", namespace)
    change: Change
    if deletes:
        change = Delete(record.get("id", ""), space)
    else:
        metadata = record.get("metadata", {})
        change = Upsert(record.get("id"), space, record.get("text", ""), metadata, _expiry(number, record))
    try:
        return validate_change(change, limits)
    except InvalidChange as error:
        first = error.problems[0]
        raise InvalidLine(number, first.field, first.message) from error


def _expiry(number: int, record: dict[str, Any]) -> float | None:
    expires_at = record.get("expires_at")
    if expires_at is None:
        return None
    if not isinstance(expires_at, str):
        raise InvalidLine(number, "expires_at", "must be an ISO 8601 time or null")
    try:
        return parse_time(expires_at)
    except (ValueError, OverflowError) as error:
        raise InvalidLine(number, "expires_at", f"must be an ISO 8601 time: {error}") from error
