"""Long texts: windows of prose, and lists of 75 keys with their values."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kan.tokenizer import Tokenizer
from lab.errors import DataError

PROSE = {"novels": "novels100.txt.gz", "wikitext": "wikitext2_valid.txt.gz"}
RETRIEVAL = "kv-retrieval-75_keys.jsonl.gz"
CHARACTERS_PER_TOKEN = 8
"""More than any of these texts has."""
INSTRUCTION = "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n"


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens, of which the last `asked` are to be predicted."""

    tokens: list[int]
    asked: int


def windows(path: Path, tokenizer: Tokenizer, count: int, length: int) -> Iterator[Text]:
    """`count` windows of `length` tokens, at even distances in the file. DataError if it is too short."""
    text = _read(path)
    for number in range(count):
        start = len(text) * (2 * number + 1) // (2 * count) - length * CHARACTERS_PER_TOKEN // 2
        tokens = tokenizer.encode(text[max(0, start) :][: length * CHARACTERS_PER_TOKEN])[:length]
        if len(tokens) < length:
            raise DataError(f"{path}: {count} windows of {length} tokens are more than it has")
        yield Text(tokens, length - 1)


def retrievals(path: Path, tokenizer: Tokenizer, count: int) -> Iterator[Text]:
    """Which value has this key? The keys asked for lie evenly over the list."""
    lines = _read(path).splitlines()[:count]
    if len(lines) < count:
        raise DataError(f"{path}: has fewer than {count} rows")
    for number, line in enumerate(lines):
        try:
            records = [(str(key), str(value)) for key, value in json.loads(line)["ordered_kv_records"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number + 1}: no list of keys and values") from error
        key, value = records[(2 * number + 1) * len(records) // (2 * count)]
        question = f'{INSTRUCTION}{json.dumps(dict(records), indent=1)}\n\nKey: "{key}"\nCorresponding value: "'
        prompt, answer = tokenizer.encode(question), tokenizer.encode(value)
        yield Text([*prompt, *answer], len(answer))


def _read(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
