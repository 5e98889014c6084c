"""What one request tells the KV connector, as the plain values that vLLM carries between its processes.

A request either *mounts* facts (its prompt is preamble, facts, context; the connector loads all but the context) or
*records* one (its prompt is preamble and fact, whose K and V the connector writes to disk).

Layout. vLLM gives the tokens of a prompt consecutive positions, so the context starts at N, the number of knowledge
tokens. RoPE only sees differences of positions: if the context belongs at P + longest fact (see `kan.prompt`), and
preamble and facts are all placed N - (P + longest) further back than they belong, every difference is as it should be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "kalmagrove"
"""Our place in `kv_transfer_params`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of knowledge tokens whose K and V lie on disk under `key`."""

    key: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Mount:
    """preamble and facts, in the order of the prompt; phi [layers, H, facts] as float32 bytes, or None for no bias."""

    preamble: Segment
    facts: tuple[Segment, ...]
    phi: bytes | None

    @property
    def tokens(self) -> int:
        """Knowledge tokens in the prompt (N)."""
        return self.preamble.tokens + sum(fact.tokens for fact in self.facts)

    @property
    def segments(self) -> tuple[Segment, ...]:
        return (self.preamble, *self.facts)

    @property
    def positions(self) -> list[int]:
        """Of every knowledge token: facts side by side, all right behind the preamble, the context right behind the
        longest of them."""
        shift = self.tokens - self.preamble.tokens - max(fact.tokens for fact in self.facts)
        after = shift + self.preamble.tokens
        return [*range(shift, after), *(after + offset for fact in self.facts for offset in range(fact.tokens))]

    def to_params(self) -> dict[str, Any]:
        segments = [[segment.key, segment.tokens] for segment in self.segments]
        return {NAME: {"mount": segments, "phi": self.phi}}

    def salt(self, versions: Sequence[int], origin: str) -> str:
        """What must be equal for two requests to share cached blocks: facts, their versions, φ's values, and `origin`,
        which names the φ and the encoder behind them."""
        digest = hashlib.sha256(origin.encode() + (self.phi or b""))
        for segment, version in zip(self.facts, versions, strict=True):
            digest.update(f"\n{segment.key} {version}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """Write K and V of the prompt's tokens from `skip` on to disk, under `key`."""

    key: str
    skip: int

    def to_params(self) -> dict[str, Any]:
        return {NAME: {"record": self.key, "skip": self.skip}}


def from_params(params: Mapping[str, Any] | None) -> Mount | Record | None:
    """The inverse of `to_params`; None for a request that has nothing to do with knowledge."""
    given = (params or {}).get(NAME)
    if given is None:
        return None
    if "record" in given:
        return Record(given["record"], given["skip"])
    preamble, *facts = (Segment(key, tokens) for key, tokens in given["mount"])
    return Mount(preamble, tuple(facts), given["phi"])


def stage_directory(root: Path, stage: int, stages: int) -> Path:
    """Where one of several pipeline stages keeps its layers' page content; the root itself for the only one."""
    return root if stages == 1 else root / f"stage-{stage}-of-{stages}"
