"""Rows of a gzipped NDJSON file of one of the data sets, checked."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.errors import DataError


def read_rows(path: Path, texts: Sequence[str], lists: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Objects of the file in its order. Fields in `texts` are strings, those in `lists` are lists of strings."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(line, texts, lists, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        after = f", after line {number}" if number else ""
        raise DataError(f"{path}{after}: cannot be read ({error})") from error


def _row(line: str, texts: Sequence[str], lists: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: not an object")
    for name in texts:
        if not isinstance(row.get(name), str):
            raise DataError(f"{where}: {name} must be a string")
    for name in lists:
        value = row.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(f"{where}: {name} must be a list of strings")
    return row
