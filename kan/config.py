"""The shape of a KAN model. Knows nothing of files, tensors or any other project's configuration format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

from kan.symmetry.action import Action
from kan.symmetry.group import TRIVIAL, group_of

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
_OPTIONAL = {"attention_blocks", "attention_threshold", "group_action"}
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
    group: str = TRIVIAL
    """Symmetry group of the layers, as `kan.symmetry.group` spells it; "trivial": ordinary layers."""
    attention: str = "full"
    """Attention pattern: "full" (causal over everything) or "sqrt" (`SqrtBlocks` of `kan/patterns.py`)."""
    attention_blocks: int = 80
    """Of "sqrt": how many blocks of the smallest size a row chooses; of larger ones, as many as hold as many tokens."""
    attention_threshold: int = 4096
    """Of "sqrt": tokens of a context whose rows see everything."""
    group_action: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """How the group exchanges tokens: for each of its generators the cycles of a permutation. Empty: not at all."""

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
        self._check_group()
        _require(self.attention in ("full", "sqrt"), "attention", "must be 'full' or 'sqrt'", self.attention)
        _require(self.attention_blocks >= 1, "attention_blocks", "must be at least 1", self.attention_blocks)
        _require(self.attention_threshold >= 0, "attention_threshold", "must not be negative", self.attention_threshold)

    def _check_types(self) -> None:
        for field, hint in get_type_hints(KANConfig).items():
            value = getattr(self, field)
            _require(_has_type(value, hint), field, f"must be {_spell(hint)}", value)

    def _check_token(self, field: str, token: int) -> None:
        _require(0 <= token < self.vocab_size, field, f"must be below vocab_size ({self.vocab_size})", token)

    def _check_group(self) -> None:
        try:
            order = self.group_order
        except ValueError as error:
            raise ValueError(f"group {error}, not {self.group!r}") from None
        for field, unit in (("hidden_size", order), ("intermediate_size", order), ("head_dim", 2 * order)):
            _require(getattr(self, field) % unit == 0, field, f"must be a multiple of {unit}", getattr(self, field))
        try:
            moved = set(self.vocabulary_action.moved.tolist())
        except ValueError as error:
            raise ValueError(f"group_action does not fit: {error}") from None
        named = {*self.eos_token_ids, self.bos_token_id}
        _require(not moved & named, "group_action", "must leave bos and eos tokens where they are", self.group_action)

    @property
    def group_order(self) -> int:
        """How many elements the group has."""
        return group_of(self.group).order

    @property
    def vocabulary_action(self) -> Action:
        """What the group does to tokens. Made anew at each call."""
        return Action.from_cycles(group_of(self.group), self.vocab_size, self.group_action)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json` can write and `from_json` reads back unchanged.

        Without what has no meaning: so configurations and fingerprints of ordinary models stay as they were.
        """
        written = {**asdict(self), "eos_token_ids": list(self.eos_token_ids)}
        written["group_action"] = [[list(cycle) for cycle in cycles] for cycles in self.group_action]
        meaningless = [] if self.group_action else ["group_action"]
        meaningless += [] if self.attention == "sqrt" else ["attention_blocks", "attention_threshold"]
        return {field: value for field, value in written.items() if field not in meaningless}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KANConfig:
        """The inverse of `to_json`. Raises ValueError naming unknown or missing keys, or the bad value."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(data.keys() - known):
            raise ValueError(f"unknown model configuration keys: {', '.join(unknown)}")
        if missing := sorted(known - _OPTIONAL - data.keys()):
            raise ValueError(f"missing model configuration keys: {', '.join(missing)}")
        values = dict(data)
        for field in {"eos_token_ids", "group_action"} & values.keys():
            values[field] = _tuples(values[field])
        return cls(**values)


def _require(holds: bool, field: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{field} {rule}, not {value!r}")


def _tuples(value: object) -> object:
    """JSON's lists as tuples, all the way down."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _has_type(value: object, hint: object) -> bool:
    """Exact types: JSON's `true` is no integer, and 1 is no boolean. A whole number may stand for a float."""
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, get_args(hint)[0]) for item in value)
    if hint == int | None:
        return value is None or type(value) is int
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _spell(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) and hint is not tuple else str(hint)
