"""A model on disk: one directory whose every file is named, with its digest, in a manifest.

    config.json          KANConfig
    model.safetensors    weights, under Hugging Face's names for Llama
    tokenizer.json       of the `tokenizers` library
    chat_template.jinja  only if the model has one
    manifest.json        format, source, fingerprint, size and SHA-256 of the files above

A directory appears under its name complete and synced to disk, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kan.config import KANConfig

if TYPE_CHECKING:
    import torch

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
MANIFEST_FILE = "manifest.json"

_IDENTITY_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)
"""What decides the tokens of a text and the output for tokens: hashed into the fingerprint."""

_WEIGHT_TYPES = ("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or not what it says; the message names the file or tensor."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint: its files were whole when it was opened."""

    directory: Path
    config: KANConfig
    fingerprint: str
    """SHA-256 (hex) over the digests of configuration, weights and tokenizer: same value, same model."""
    source: str
    """Where the model was imported from, in words."""

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read every file once and compare it with the manifest.

        Raises CheckpointError naming the first missing or damaged file.
        """
        manifest = _read_manifest(directory)
        for name, expected in manifest["files"].items():
            _verify(directory / name, expected)
        config_path = directory / CONFIG_FILE
        try:
            config = KANConfig.from_json(json.loads(config_path.read_bytes()))
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{config_path}: {error}") from error
        return cls(directory, config, manifest["fingerprint"], manifest["source"])

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights, on the CPU, as stored (any floating type), under the names of `expected_tensors`.

        Raises CheckpointError naming missing, extra and misshapen tensors.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.directory / WEIGHTS_FILE
        try:
            tensors: dict[str, torch.Tensor] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        check_tensors(self.config, tensors)
        return tensors

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / TOKENIZER_FILE

    def chat_template(self) -> str | None:
        """The Jinja source, or None where the model has none."""
        path = self.directory / TEMPLATE_FILE
        return path.read_text("utf-8") if path.exists() else None


def expected_tensors(config: KANConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight: the free parameters only.

    A linear layer's weight is [out, in]; with a group of n elements [out / n, in], its blocks side by side, and the
    embedding [vocabulary, hidden / n] (`kan.symmetry`).
    """
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    free = hidden // config.group_order
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, free)}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (free,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (free,)
        linears = (
            ("self_attn.q_proj", (queries, hidden), config.attention_bias),
            ("self_attn.k_proj", (keys, hidden), config.attention_bias),
            ("self_attn.v_proj", (keys, hidden), config.attention_bias),
            ("self_attn.o_proj", (hidden, queries), config.attention_bias),
            ("mlp.gate_proj", (ffn, hidden), config.mlp_bias),
            ("mlp.up_proj", (ffn, hidden), config.mlp_bias),
            ("mlp.down_proj", (hidden, ffn), config.mlp_bias),
        )
        for name, (outputs, inputs), biased in linears:
            shapes[f"{prefix}{name}.weight"] = (outputs // config.group_order, inputs)
            if biased:
                shapes[f"{prefix}{name}.bias"] = (outputs // config.group_order,)
    shapes["model.norm.weight"] = (free,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, free)
    return shapes


def check_tensors(config: KANConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError unless exactly the expected tensors are there, in the right shapes and types."""
    expected = expected_tensors(config)
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name in expected and shape != expected[name]:
            problems.append(f"{name} has shape {list(shape)} instead of {list(expected[name])}")
        elif name in expected and str(tensor.dtype) not in _WEIGHT_TYPES:
            problems.append(f"{name} holds {tensor.dtype}, which is not supported")
    if problems:
        shown, rest = problems[:8], len(problems) - 8
        more = f"; and {rest} more" if rest > 0 else ""
        raise CheckpointError(f"weights do not fit the configuration: {'; '.join(shown)}{more}")


def write_checkpoint(
    directory: Path,
    config: KANConfig,
    tensors: Mapping[str, torch.Tensor],
    tokenizer_json: str,
    chat_template: str | None,
    source: str,
    *,
    overwrite: bool = False,
) -> Checkpoint:
    """Write a checkpoint and return it opened (and so verified).

    Raises CheckpointError if the tensors do not fit `config`, or if `directory` exists (unless `overwrite`).
    Any failure leaves `directory` as it was. Overwriting has one short gap between two renames: a crash
    within it leaves the old checkpoint beside the name, under a hidden one.
    """
    check_tensors(config, tensors)
    if directory.exists() and not overwrite:
        raise CheckpointError(f"{directory} already exists")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _write_files(staging, config, tensors, tokenizer_json, chat_template, source)
        staging.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server run as another user
        _replace(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Checkpoint.open(directory)


def _write_files(
    directory: Path,
    config: KANConfig,
    tensors: Mapping[str, torch.Tensor],
    tokenizer_json: str,
    chat_template: str | None,
    source: str,
) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS_FILE)
    texts = {CONFIG_FILE: _dump(config.to_json()), TOKENIZER_FILE: tokenizer_json}
    if chat_template is not None:
        texts[TEMPLATE_FILE] = chat_template
    for name, text in texts.items():
        (directory / name).write_bytes(text.encode("utf-8"))
    files = {path.name: _describe(path) for path in sorted(directory.iterdir())}
    manifest = {"format": FORMAT, "source": source, "fingerprint": _fingerprint(files), "files": files}
    (directory / MANIFEST_FILE).write_text(_dump(manifest), "utf-8")
    for path in directory.iterdir():
        path.chmod(0o644)
        _sync(path)
    _sync(directory)


def _replace(staging: Path, directory: Path) -> None:
    """Give `staging` the name `directory`, out of which whatever had it moves first."""
    retired = staging.with_name(staging.name + ".old")
    if directory.exists():
        directory.rename(retired)
    try:
        staging.rename(directory)
        _sync(directory.parent)
    except OSError:
        if not staging.exists():
            directory.rename(staging)
        if retired.exists():
            retired.rename(directory)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: no checkpoint, or an incomplete one") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint manifest of format {FORMAT}")
    if not _well_formed(manifest):
        raise CheckpointError(f"{path} is damaged: fields are missing or of the wrong kind")
    if manifest["fingerprint"] != _fingerprint(manifest["files"]):
        raise CheckpointError(f"{path} is damaged: its fingerprint does not match its digests")
    return manifest


def _well_formed(manifest: dict[str, Any]) -> bool:
    files = manifest.get("files")
    return (
        isinstance(manifest.get("source"), str)
        and isinstance(manifest.get("fingerprint"), str)
        and isinstance(files, dict)
        and all(name in files for name in _IDENTITY_FILES)
        and all(name == Path(name).name for name in files)
        and all(isinstance(entry, dict) and {"sha256", "size"} <= entry.keys() for entry in files.values())
        and all(isinstance(entry["sha256"], str) for entry in files.values())
    )


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        found = _describe(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if found["size"] != expected["size"]:
        raise CheckpointError(f"{path} is damaged: {found['size']} bytes instead of {expected['size']}")
    if found["sha256"] != expected["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST_FILE}")


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def _fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    digests = "\n".join(files[name]["sha256"] for name in _IDENTITY_FILES)
    return hashlib.sha256(digests.encode()).hexdigest()


def _dump(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
