"""Models in llama.cpp's GGUF format: tensors dequantised, rows put back in order, the tokenizer rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kan.checkpoint.gguf_tokenizer import tokenizer_json
from kan.checkpoint.imported import ImportedModel, ModelImportError, Progress
from kan.config import KANConfig

_ARCHITECTURE = "llama"

_GLOBAL_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(path: Path, name: str, progress: Progress) -> ImportedModel:
    """Raises ModelImportError for other architectures, rotary scaling, unknown tokenizers or tensors."""
    from gguf import GGUFReader

    if not path.is_file():
        raise ModelImportError(f"{path}: no such file")
    try:
        reader = GGUFReader(path)
    except Exception as error:  # the reader fails on a damaged file in many ways
        raise ModelImportError(f"{path} is not a readable GGUF file: {error}") from error
    metadata = _Metadata({key: field.contents for key, field in reader.fields.items()})
    stored = {tensor.name: tensor for tensor in reader.tensors}
    _refuse_unsupported(metadata, stored)
    config = _config(metadata, stored, name)
    tensors = {}
    for done, (key, tensor) in enumerate(stored.items(), start=1):
        target = _target_name(key)
        tensors[target] = _in_order(target, _dequantised(tensor), config)
        progress(done, len(stored))
    return ImportedModel(config, tensors, tokenizer_json(metadata), metadata.get("tokenizer.chat_template"))


class _Metadata(dict[str, Any]):
    """Metadata by key, decoded when asked for; a missing one is named."""

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise ModelImportError(f"the GGUF file has no {key}")
        return super().__getitem__(key)()

    def get(self, key: str, default: Any = None) -> Any:
        field = super().get(key)
        return default if field is None else field()


def _refuse_unsupported(metadata: _Metadata, stored: Mapping[str, Any]) -> None:
    architecture = metadata["general.architecture"]
    if architecture != _ARCHITECTURE:
        raise ModelImportError(f"GGUF architecture {architecture!r} is not supported, only {_ARCHITECTURE!r}")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ModelImportError(f"llama.rope.scaling.type {scaling!r} is not supported")
    if "rope_freqs.weight" in stored:
        raise ModelImportError("rope_freqs.weight: rotary frequency scaling is not supported")
    if metadata.get("llama.expert_count", 0):
        raise ModelImportError("llama.expert_count: mixtures of experts are not supported")


def _config(metadata: _Metadata, stored: Mapping[str, Any], name: str) -> KANConfig:
    hidden, heads = metadata["llama.embedding_length"], metadata["llama.attention.head_count"]
    head_dim = metadata.get("llama.attention.key_length", hidden // heads)
    rotated = metadata.get("llama.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ModelImportError(f"llama.rope.dimension_count {rotated}: rotating a part of a head is not supported")
    if "token_embd.weight" not in stored:
        raise ModelImportError("the GGUF file has no tensor token_embd.weight")
    ends = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
    return KANConfig(
        name=name,
        vocab_size=int(stored["token_embd.weight"].shape[1]),
        hidden_size=hidden,
        intermediate_size=metadata["llama.feed_forward_length"],
        num_layers=metadata["llama.block_count"],
        num_heads=heads,
        num_kv_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=metadata["llama.context_length"],
        rope_theta=_decimal(metadata.get("llama.rope.freq_base", 10_000.0)),
        rms_norm_eps=_decimal(metadata["llama.attention.layer_norm_rms_epsilon"]),
        tie_word_embeddings="output.weight" not in stored,
        attention_bias="blk.0.attn_q.bias" in stored,
        mlp_bias="blk.0.ffn_gate.bias" in stored,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=tuple(dict.fromkeys(end for end in ends if end is not None)),
    )


def _decimal(single: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 was 1e-05 before GGUF stored it."""
    import numpy as np

    return float(str(np.float32(single)))


def _target_name(key: str) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
    parts = key.split(".")
    if len(parts) == 2 and parts[0] in _GLOBAL_NAMES:
        return f"{_GLOBAL_NAMES[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise ModelImportError(f"unexpected tensor {key}")


def _dequantised(tensor: Any) -> torch.Tensor:
    """float32, but half precision stays as it is: nothing is lost and nothing gained."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = tensor.tensor_type
    if kind == GGMLQuantizationType.F16:
        return torch.from_numpy(tensor.data.copy())
    try:
        values = torch.from_numpy(dequantize(tensor.data, kind).copy())
    except NotImplementedError as error:
        raise ModelImportError(f"{tensor.name}: {kind.name} cannot be dequantised") from error
    return values.bfloat16() if kind == GGMLQuantizationType.BF16 else values


def _in_order(target: str, tensor: torch.Tensor, config: KANConfig) -> torch.Tensor:
    """llama.cpp rotates rows 2i and 2i + 1 of a head together, everybody else i and i + d/2: undo its order.

    tensor: [heads * head_dim] or [heads * head_dim, hidden], for queries and keys; others pass.
    """
    if ".q_proj." not in target and ".k_proj." not in target:
        return tensor
    if tensor.shape[0] % config.head_dim:
        return tensor  # misshapen: refused by name when the checkpoint is written
    pairs = tensor.reshape(-1, config.head_dim // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
