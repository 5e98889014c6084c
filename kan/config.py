"""The shape of a KAN model. Knows nothing of files, tensors or any other project's configuration format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

_POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_position_embeddings",
)
_OPTIONAL = {"attention_blocks", "attention_threshold"}
"""Fields that a configuration file may leave out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KANConfig:
    """A decoder of the Llama family: RMSNorm, RoPE, grouped-query attention, SwiGLU.

    Raises ValueError, naming the field, for a value of the wrong type or outside its range.
    """

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    group: str = "trivial"
    """Symmetry group of the linear layers; only "trivial" (ordinary layers) exists yet."""
    attention: str = "full"
    """Attention pattern: "full" (causal over everything) or "sqrt" (`SqrtBlocks` of `kan/patterns.py`)."""
    attention_blocks: int = 32
    """Of "sqrt": how many blocks a row chooses."""
    attention_threshold: int = 4096
    """Of "sqrt": tokens of a context whose rows see everything."""

    def __post_init__(self) -> None:
        self._check_types()
        for field in _POSITIVE_INTEGERS:
            _require(getattr(self, field) >= 1, field, "must be at least 1", getattr(self, field))
        for field in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, field)
            _require(math.isfinite(value) and value > 0, field, "must be finite and above 0", value)
        _require(bool(self.name), "name", "must not be empty", self.name)
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            f"must divide num_heads ({self.num_heads})",
            self.num_kv_heads,
        )
        _require(self.head_dim % 2 == 0, "head_dim", "must be even (RoPE turns pairs)", self.head_dim)
        for token in self.eos_token_ids:
            self._check_token("eos_token_ids", token)
        if self.bos_token_id is not None:
            self._check_token("bos_token_id", self.bos_token_id)
        _require(self.group == "trivial", "group", "only 'trivial' is supported yet", self.group)
        _require(self.attention in ("full", "sqrt"), "attention", "must be 'full' or 'sqrt'", self.attention)
        _require(self.attention_blocks >= 1, "attention_blocks", "must be at least 1", self.attention_blocks)
        _require(self.attention_threshold >= 0, "attention_threshold", "must not be negative", self.attention_threshold)

    def _check_types(self) -> None:
        for field, hint in get_type_hints(KANConfig).items():
            value = getattr(self, field)
            _require(_has_type(value, hint), field, f"must be {_spell(hint)}", value)

    def _check_token(self, field: str, token: int) -> None:
        _require(0 <= token < self.vocab_size, field, f"must be below vocab_size ({self.vocab_size})", token)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json` can write and `from_json` reads back unchanged."""
        written = {**asdict(self), "eos_token_ids": list(self.eos_token_ids)}
        if self.attention != "sqrt":  # what has no meaning must not change a model's fingerprint
            del written["attention_blocks"], written["attention_threshold"]
        return written

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KANConfig:
        """The inverse of `to_json`. Raises ValueError naming unknown or missing keys, or the bad value."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(data.keys() - known):
            raise ValueError(f"unknown model configuration keys: {', '.join(unknown)}")
        if missing := sorted(known - _OPTIONAL - data.keys()):
            raise ValueError(f"missing model configuration keys: {', '.join(missing)}")
        values = dict(data)
        if isinstance(values["eos_token_ids"], list):
            values["eos_token_ids"] = tuple(values["eos_token_ids"])
        return cls(**values)


def _require(holds: bool, field: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{field} {rule}, not {value!r}")


def _has_type(value: object, hint: object) -> bool:
    """Exact types: JSON's `true` is no integer, and 1 is no boolean. A whole number may stand for a float."""
    if hint == tuple[int, ...]:
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    if hint == int | None:
        return value is None or type(value) is int
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _spell(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) and hint is not tuple else str(hint)
