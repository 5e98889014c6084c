"""An edit, before and after it is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kb.facts import Change
from kb.index.segment import Vectors


@dataclass(frozen=True, slots=True)
class Prepared:
    """A validated batch with its vectors. Committing it is all that is left."""

    changes: tuple[Change, ...]
    """Every upsert has its id."""
    vectors: Mapping[str, Vectors] = field(repr=False)
    """float32 [dimension] of each upserted text."""


@dataclass(frozen=True, slots=True)
class Commit:
    """An edit that is durable and visible."""

    version: int
    upserted: int
    deleted: int
