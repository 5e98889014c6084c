"""The facts as of one version, in a file beside the log, so that a start replays only what came after it.

The file only saves time: one that is missing, torn or of another log is not used, and the whole log is replayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import orjson

from kb.facts import Fact, Key
from kb.log.marker import Head
from kb.log.reader import LogReader

_FORMAT = 1
_DIGEST = 32


@dataclass(frozen=True, slots=True)
class State:
    """What holds after the batches up to `head`."""

    head: Head
    facts: Mapping[Key, Fact]


def state_of(saved: State | None, log: LogReader) -> State:
    """What was saved, if it is a state of this log, else that of its base."""
    if saved is None or log.chain_at(saved.head.version) != saved.head.chain:
        return base_state(log)
    return saved


def base_state(log: LogReader) -> State:
    """What held where the log begins. Raises StoreCorrupt, StoreUnavailable."""
    beginning = log.beginning()
    return State(beginning.base.head, beginning.facts)


def write_state(path: Path, state: State) -> None:
    """Replaces the file whole; what a crash tears fails its checksum. Raises OSError."""
    partial = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for line in _lines(state):
                digest.update(line)
                file.write(line)
            file.write(digest.digest())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> State | None:
    """None unless the file holds exactly what was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    content = data[:-_DIGEST]
    if hashlib.sha256(content).digest() != data[-_DIGEST:]:
        return None
    lines = BytesIO(content)
    written, version, chain = orjson.loads(next(lines))
    if written != _FORMAT:
        return None
    facts = (Fact(*orjson.loads(line)) for line in lines)
    return State(Head(version, bytes.fromhex(chain)), {fact.key: fact for fact in facts})


def _lines(state: State) -> Iterator[bytes]:
    yield orjson.dumps([_FORMAT, state.head.version, state.head.chain.hex()], option=orjson.OPT_APPEND_NEWLINE)
    for fact in state.facts.values():
        # In the order of Fact's fields.
        values = (fact.id, fact.namespace, fact.text, fact.metadata)
        times = (fact.expires_at, fact.version, fact.created_at)
        yield orjson.dumps((*values, *times), option=orjson.OPT_APPEND_NEWLINE)
