"""Checkpoints: written whole or not at all, and every kind of damage named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.checkpoint.directory import Checkpoint, CheckpointError, check_tensors, expected_tensors, write_checkpoint
from tests.tiny import CHATML, tiny_checkpoint, tiny_config, tiny_tensors, tiny_tokenizer_json

FILES = ("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")


def test_round_trip(tmp_path: Path) -> None:
    written = tiny_checkpoint(tmp_path, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    opened = Checkpoint.open(tmp_path / "tiny")
    assert opened == written
    assert opened.source == "random weights, seed 0"
    assert opened.tokenizer_path.read_text("utf-8") == tiny_tokenizer_json()
    assert opened.chat_template() == CHATML
    tensors, expected = opened.tensors(), tiny_tensors(opened.config)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_type_of_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    config = tiny_config()
    tensors = tiny_tensors(config, dtype=dtype)
    checkpoint = write_checkpoint(tmp_path / "m", config, tensors, tiny_tokenizer_json(), None, "test")
    assert {tensor.dtype for tensor in checkpoint.tensors().values()} == {dtype}
    assert checkpoint.chat_template() is None


def test_tensors_that_are_views_are_written_as_they_look(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = tiny_tensors(config)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].t().contiguous().t()
    checkpoint = write_checkpoint(tmp_path / "m", config, tensors, tiny_tokenizer_json(), None, "test")
    assert torch.equal(checkpoint.tensors()[name], tensors[name])


def test_fingerprint_follows_weights_config_and_tokenizer_only(tmp_path: Path) -> None:
    config, tensors, tokenizer = tiny_config(), tiny_tensors(tiny_config()), tiny_tokenizer_json()

    def fingerprint(name: str, *parts: object) -> str:
        return write_checkpoint(tmp_path / name, *parts).fingerprint  # type: ignore[arg-type]

    base = fingerprint("a", config, tensors, tokenizer, CHATML, "here")
    assert fingerprint("b", config, tensors, tokenizer, None, "there") == base
    others = {
        fingerprint("c", tiny_config(rope_theta=500.0), tensors, tokenizer, CHATML, "here"),
        fingerprint("d", config, tiny_tensors(config, seed=1), tokenizer, CHATML, "here"),
        fingerprint("e", config, tensors, tokenizer + " ", CHATML, "here"),
    }
    assert len(others | {base}) == 4


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path)
    (checkpoint.directory / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing"):
        Checkpoint.open(checkpoint.directory)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"\n", lambda data: b""])
def test_a_wrong_size_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    checkpoint = tiny_checkpoint(tmp_path)
    path = checkpoint.directory / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: \d+ bytes instead of"):
        Checkpoint.open(checkpoint.directory)


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_named(
    tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, name: str, place: float, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("copy") / "tiny"
    shutil.copytree(tiny.directory, directory)
    data = bytearray((directory / name).read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (directory / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: its SHA-256"):
        Checkpoint.open(directory)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_damaged_manifest_never_changes_the_model(
    tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, place: float, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("copy") / "tiny"
    shutil.copytree(tiny.directory, directory)
    data = bytearray((directory / "manifest.json").read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (directory / "manifest.json").write_bytes(data)
    try:
        opened = Checkpoint.open(directory)
    except CheckpointError:
        return
    assert (opened.config, opened.fingerprint) == (tiny.config, tiny.fingerprint)


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"format": 2},
        {"format": 1, "source": "x", "fingerprint": "x", "files": {}},
        {"format": 1, "source": "x", "fingerprint": "x", "files": dict.fromkeys(FILES, 3)},
        {"format": 1, "files": None},
    ],
)
def test_a_strange_manifest_is_refused(tmp_path: Path, tiny: Checkpoint, manifest: object) -> None:
    shutil.copytree(tiny.directory, tmp_path / "tiny")
    (tmp_path / "tiny" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        Checkpoint.open(tmp_path / "tiny")


def test_a_manifest_cannot_point_outside_its_directory(tmp_path: Path, tiny: Checkpoint) -> None:
    shutil.copytree(tiny.directory, tmp_path / "tiny")
    path = tmp_path / "tiny" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = manifest["files"]["config.json"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        Checkpoint.open(tmp_path / "tiny")


def test_weights_that_do_not_fit_are_named() -> None:
    config = tiny_config()
    tensors = tiny_tensors(config)
    del tensors["model.norm.weight"]
    tensors["lm_head.weight"] = torch.zeros(259, 48)
    tensors["model.layers.1.self_attn.k_proj.weight"] = torch.zeros(48, 24)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 48, dtype=torch.int8)
    with pytest.raises(CheckpointError) as caught:
        check_tensors(config, tensors)
    message = str(caught.value)
    assert "missing model.norm.weight" in message
    assert "unexpected lm_head.weight" in message
    assert "model.layers.1.self_attn.k_proj.weight has shape [48, 24] instead of [24, 48]" in message
    assert "model.layers.0.mlp.up_proj.weight holds torch.int8" in message


def test_a_long_list_of_problems_is_cut() -> None:
    with pytest.raises(CheckpointError, match=r"; and \d+ more$"):
        check_tensors(tiny_config(), {})


@pytest.mark.parametrize("biased", [False, True])
def test_expected_tensors_counts_every_weight_once(biased: bool) -> None:
    config = tiny_config(attention_bias=biased, mlp_bias=biased, tie_word_embeddings=biased)
    names = expected_tensors(config)
    assert len(names) == 2 + (not biased) + 2 * (9 + 7 * biased)


def test_refuses_to_overwrite_unless_told(tmp_path: Path) -> None:
    old = tiny_checkpoint(tmp_path)
    config, tokenizer = tiny_config(), tiny_tokenizer_json()
    new_tensors = tiny_tensors(config, seed=1)
    with pytest.raises(CheckpointError, match="already exists"):
        write_checkpoint(old.directory, config, new_tensors, tokenizer, None, "new")
    assert Checkpoint.open(old.directory) == old
    new = write_checkpoint(old.directory, config, new_tensors, tokenizer, None, "new", overwrite=True)
    assert new.fingerprint != old.fingerprint
    assert Checkpoint.open(old.directory) == new
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("existing", [False, True])
def test_a_failing_disk_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, nth: int, existing: bool
) -> None:
    """Fail the nth sync or rename: the old model (or nothing) must remain, or the new one be complete."""
    old = tiny_checkpoint(tmp_path) if existing else None
    config = tiny_config()
    calls = 0
    target, name = (os, "fsync") if failing == "fsync" else (Path, "rename")
    real = getattr(target, name)

    def flaky(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, flaky)
        try:
            write_checkpoint(
                tmp_path / "tiny",
                config,
                tiny_tensors(config, 1),
                tiny_tokenizer_json(),
                None,
                "new",
                overwrite=True,
            )
        except OSError:
            if old is None:
                assert list(tmp_path.iterdir()) == []
            else:
                assert Checkpoint.open(tmp_path / "tiny") == old
                assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
        else:
            assert calls < nth
            assert Checkpoint.open(tmp_path / "tiny").source == "new"


def test_files_are_readable_by_others(tiny: Checkpoint) -> None:
    assert os.stat(tiny.directory).st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in tiny.directory.iterdir()} == {0o644}
