"""A model with a group on disk: free parameters only, read by the same code as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kan.checkpoint.directory import Checkpoint, CheckpointError, check_tensors
from kan.kernels.native import KernelsUnavailable, check_model
from kan.knowledge.adapter import new_adapter
from kan.knowledge.phi import Phi, PhiError, gap_phi, load_phi, save_phi
from kan.model import KANModel
from tests.kan.symmetry.models import ACTIONS, grouped_checkpoint, grouped_config
from tests.tiny import base_logits, tiny_checkpoint, tiny_config, tiny_tensors


@pytest.mark.parametrize("name", ACTIONS)
def test_round_trip(tmp_path: Path, name: str) -> None:
    written = grouped_checkpoint(tmp_path, name)
    opened = Checkpoint.open(written.directory)
    assert opened == written
    assert (opened.config.group, opened.config.group_action) == (name, ACTIONS[name])
    tokens = [7, 10, 11, 12]
    expected = base_logits(KANModel(opened.config, tiny_tensors(opened.config)), tokens)
    assert torch.equal(base_logits(KANModel(opened.config, opened.tensors()), tokens), expected)


def test_it_is_smaller_by_the_order_of_the_group(tmp_path: Path) -> None:
    """But for what names the tensors."""
    name = "cyclic(4) x cyclic(2)"
    sizes = {"hidden_size": 96, "intermediate_size": 240, "head_dim": 16}
    compressed = grouped_checkpoint(tmp_path, name, **sizes)
    plain = tiny_checkpoint(tmp_path, name="plain", **sizes)
    weights = [(one.directory / "model.safetensors").stat().st_size for one in (compressed, plain)]
    assert 8 * (weights[0] - 4096) < weights[1] < 8 * weights[0]


def test_tensors_of_an_ordinary_model_do_not_fit() -> None:
    config = grouped_config("cyclic(2)")
    sizes = {field: getattr(config, field) for field in ("hidden_size", "intermediate_size", "head_dim")}
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight has shape \[259, 6\] instead of \[259, 3\]"):
        check_tensors(config, tiny_tensors(tiny_config(**sizes)))


def test_the_compiled_kernels_refuse_it() -> None:
    config = grouped_config("cyclic(2)", hidden_size=64, intermediate_size=64, head_dim=32)
    with pytest.raises(KernelsUnavailable, match=r"not those of cyclic\(2\)"):
        check_model(config, torch.bfloat16)


def test_an_adapter_is_refused_and_a_phi_is_not(tmp_path: Path) -> None:
    config = grouped_config("cyclic(2)")
    phi = gap_phi(config.num_layers, config.num_heads, config.head_dim)
    width = 2 * config.num_kv_heads * config.head_dim
    adapter = new_adapter(torch.ones(config.num_layers, 1, width), 2, seed=0)
    for name, one in (("plain", phi), ("adapted", Phi(phi.coefficients, adapter=adapter))):
        save_phi(one, tmp_path / name)
    loaded = load_phi(tmp_path / "plain", config, model_fingerprint="", encoder_fingerprint="")
    assert torch.equal(loaded.coefficients, phi.coefficients)
    with pytest.raises(PhiError, match="would break the symmetry"):
        load_phi(tmp_path / "adapted", config, model_fingerprint="", encoder_fingerprint="")
