"""Models in Hugging Face's layout (safetensors, config.json, tokenizer.json), from a directory or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kan.checkpoint.directory import TEMPLATE_FILE, TOKENIZER_FILE
from kan.checkpoint.imported import ImportedModel, ModelImportError, Progress
from kan.config import KANConfig

_ARCHITECTURE = "LlamaForCausalLM"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_WANTED = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    _INDEX,
    TOKENIZER_FILE,
    "tokenizer_config.json",
    TEMPLATE_FILE,
]


def download(repository: str, revision: str | None) -> Path:
    """Files of the hub, in huggingface_hub's cache. Raises ModelImportError when they cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except Exception as error:  # HTTP, cache and offline errors share no base
        raise ModelImportError(
            f"{repository} cannot be downloaded from the hub ({type(error).__name__}: {error}); "
            "without network, give a local directory or a GGUF file"
        ) from error


def read_directory(directory: Path, name: str, progress: Progress) -> ImportedModel:
    """Raises ModelImportError for missing files, other architectures, rotary scaling, quantised weights."""
    source = _json(directory / "config.json")
    config = _config(source, _end_tokens(directory, source), name)
    tensors = _tensors(directory, progress)
    if config.tie_word_embeddings:
        _drop_tied_head(tensors)
    tokenizer = _text(directory / TOKENIZER_FILE)
    return ImportedModel(config, tensors, tokenizer, _chat_template(directory))


def _config(source: Mapping[str, Any], ends: tuple[int, ...], name: str) -> KANConfig:
    _refuse_unsupported(source)
    required = {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "max_position_embeddings": "max_position_embeddings",
    }
    if missing := [key for key in required.values() if source.get(key) is None]:
        raise ModelImportError(f"config.json has no {', '.join(missing)}")
    sizes = {field: source[key] for field, key in required.items()}
    # What config.json leaves out has the default that transformers' LlamaConfig gives it.
    return KANConfig(
        name=name,
        **sizes,
        num_kv_heads=_first(source.get("num_key_value_heads"), sizes["num_heads"]),
        head_dim=_first(source.get("head_dim"), sizes["hidden_size"] // sizes["num_heads"]),
        rope_theta=_rope(source).get("rope_theta", 10_000.0),
        rms_norm_eps=source.get("rms_norm_eps", 1e-6),
        tie_word_embeddings=source.get("tie_word_embeddings", False),
        attention_bias=source.get("attention_bias", False),
        mlp_bias=source.get("mlp_bias", False),
        bos_token_id=source.get("bos_token_id"),
        eos_token_ids=ends,
    )


def _refuse_unsupported(source: Mapping[str, Any]) -> None:
    architectures = source.get("architectures") or [source.get("model_type", "unknown")]
    if architectures != [_ARCHITECTURE]:
        raise ModelImportError(
            f"architecture {', '.join(map(str, architectures))} is not supported, only {_ARCHITECTURE}"
        )
    rope = _rope(source)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelImportError(f"rope_scaling {kind!r} is not supported")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelImportError("partial_rotary_factor: rotating a part of a head is not supported")
    if source.get("hidden_act", "silu") != "silu":
        raise ModelImportError(f"hidden_act {source['hidden_act']!r} is not supported, only 'silu'")
    if source.get("quantization_config"):
        raise ModelImportError("quantization_config: quantised weights are not supported (GGUF is)")


def _rope(source: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5 has it all in `rope_parameters`; before, `rope_theta` stood beside `rope_scaling`."""
    top = {key: source[key] for key in ("rope_theta", "partial_rotary_factor") if source.get(key) is not None}
    return top | (source.get("rope_scaling") or {}) | (source.get("rope_parameters") or {})


def _end_tokens(directory: Path, source: Mapping[str, Any]) -> tuple[int, ...]:
    """Of both configurations: chat models often name their end of turn only in the second."""
    path = directory / "generation_config.json"
    configs = [source, _json(path)] if path.exists() else [source]
    ends: list[int] = []
    for config in configs:
        named = config.get("eos_token_id")
        ends += named if isinstance(named, list) else [] if named is None else [named]
    return tuple(dict.fromkeys(ends))


def _tensors(directory: Path, progress: Progress) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, torch.Tensor] = {}
    shards = _shards(directory)
    for done, (shard, names) in enumerate(shards.items(), start=1):
        path = directory / shard
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in names or file.keys()}
        except (OSError, SafetensorError) as error:
            raise ModelImportError(f"{path}: {error}") from error
        progress(done, len(shards))
    # Old checkpoints carry the rotary frequencies, which the configuration says better.
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def _shards(directory: Path) -> dict[str, list[str]]:
    """File name → tensors to take from it (none: all)."""
    if (directory / _WEIGHTS).exists():
        return {_WEIGHTS: []}
    if not (directory / _INDEX).exists():
        raise ModelImportError(f"{directory} has neither {_WEIGHTS} nor {_INDEX}")
    weight_map = _json(directory / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelImportError(f"{directory / _INDEX} has no weight_map")
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ModelImportError(f"{directory / _INDEX}: {shard!r} is no file name")
        shards.setdefault(shard, []).append(tensor)
    return shards


def _drop_tied_head(tensors: dict[str, torch.Tensor]) -> None:
    head = tensors.pop("lm_head.weight", None)
    embeddings = tensors.get("model.embed_tokens.weight")
    if head is not None and embeddings is not None and not torch.equal(head, embeddings):
        raise ModelImportError("lm_head.weight differs from the embeddings, though config.json ties them")


def _chat_template(directory: Path) -> str | None:
    if (directory / TEMPLATE_FILE).exists():
        return _text(directory / TEMPLATE_FILE)
    path = directory / "tokenizer_config.json"
    template = _json(path).get("chat_template") if path.exists() else None
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ModelImportError(f"{path}: chat_template is no text")
    return template


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(path))
    except ValueError as error:
        raise ModelImportError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise ModelImportError(f"{path} holds no JSON object")
    return data


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise ModelImportError(f"{path} is missing") from None


def _first(value: Any, default: int) -> Any:
    return default if value is None else value
