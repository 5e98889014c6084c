"""KANConfig: what it accepts, what it refuses and by which name, and its JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan.config import KANConfig
from tests.tiny import tiny_config

REFUSED: list[tuple[str, Any]] = [
    *((field.name, object()) for field in dataclasses.fields(KANConfig)),
    ("name", ""),
    ("vocab_size", 0),
    ("vocab_size", True),
    ("vocab_size", 259.0),
    ("hidden_size", -48),
    ("num_layers", 0),
    ("num_kv_heads", 3),
    ("num_kv_heads", 8),
    ("head_dim", 11),
    ("rope_theta", 0.0),
    ("rope_theta", math.nan),
    ("rms_norm_eps", math.inf),
    ("rms_norm_eps", -1e-5),
    ("tie_word_embeddings", 1),
    ("bos_token_id", 259),
    ("bos_token_id", -1),
    ("eos_token_ids", (2, 259)),
    ("eos_token_ids", [2]),
    ("eos_token_ids", ("2",)),
    ("group", "Z2"),
    ("group", "symmetric(6)"),
    ("group", "cyclic(2) x trivial"),
    ("group_action", (((3, 4),),)),
    ("group_action", [[[3, 4]]]),
    ("group_action", (((3.0, 4),),)),
    ("attention", "cubic"),
    ("attention_blocks", 0),
    ("attention_threshold", -1),
]


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_bad_values_are_refused_by_field_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} "):
        tiny_config(**{field: value})


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().vocab_size = 1  # type: ignore[misc]


SIZED = {"group": "cyclic(3)", "hidden_size": 48, "intermediate_size": 96, "head_dim": 12}


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("hidden_size", {"hidden_size": 50}),
        ("intermediate_size", {"intermediate_size": 97}),
        ("head_dim", {"head_dim": 10}),
        ("head_dim", {"group": "cyclic(4)", "head_dim": 12}),
        ("group_action", {"group_action": (((10, 11),),)}),
        ("group_action", {"group_action": (((10, 11, 12),), ((13, 14),))}),
        ("group_action", {"group_action": (((10, 11, 259),),)}),
        ("group_action", {"group_action": (((1, 10, 11),),)}),
        ("group_action", {"group_action": (((10, 11, 2),),)}),
    ],
)
def test_what_does_not_fit_the_group_is_refused(field: str, changed: dict[str, Any]) -> None:
    assert tiny_config(**SIZED, group_action=(((10, 11, 12),),)).group_order == 3
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        tiny_config(**(SIZED | changed))


def test_a_group_in_json() -> None:
    config = tiny_config(**SIZED, group_action=(((10, 11, 12), (20, 21, 22)),))
    data = json.loads(json.dumps(config.to_json()))
    assert data["group_action"] == [[[10, 11, 12], [20, 21, 22]]]
    assert KANConfig.from_json(data) == config


def test_an_ordinary_model_says_nothing_of_an_action() -> None:
    """Its configuration, and so its fingerprint, is what it was before there were groups."""
    data = tiny_config().to_json()
    assert "group_action" not in data
    assert KANConfig.from_json(data) == tiny_config()


@given(
    heads=st.sampled_from([(1, 1), (4, 1), (4, 2), (9, 3)]),
    head_dim=st.integers(1, 64).map(lambda half: 2 * half),
    eps=st.floats(1e-12, 1e-1),
    bos=st.none() | st.integers(0, 258),
    eos=st.lists(st.integers(0, 258), max_size=3).map(tuple),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_json_round_trip(heads: Any, head_dim: int, eps: float, bos: Any, eos: Any, flags: Any) -> None:
    config = tiny_config(
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        rms_norm_eps=eps,
        bos_token_id=bos,
        eos_token_ids=eos,
        tie_word_embeddings=flags[0],
        attention_bias=flags[1],
        mlp_bias=flags[2],
    )
    assert KANConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_json_names_missing_and_unknown_keys() -> None:
    data = tiny_config().to_json()
    with pytest.raises(ValueError, match="unknown model configuration keys: dropout, sliding_window"):
        KANConfig.from_json(data | {"sliding_window": 4096, "dropout": 0.1})
    del data["head_dim"], data["num_heads"]
    with pytest.raises(ValueError, match="missing model configuration keys: head_dim, num_heads"):
        KANConfig.from_json(data)
