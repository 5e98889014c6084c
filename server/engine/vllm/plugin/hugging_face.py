"""A checkpoint as vLLM wants to find it: a directory with Hugging Face's config.json beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kan.checkpoint.directory import WEIGHTS_FILE, Checkpoint
from kan.config import KANConfig
from kan.tokenizer import Tokenizer
from server.engine.vllm.plugin import ARCHITECTURE


def hugging_face_config(config: KANConfig) -> dict[str, Any]:
    """The same model in the words of `transformers`' LlamaConfig, to be run by our architecture.

    ValueError if it has a group: neither vLLM's layers nor its RoPE know of any.
    """
    if config.group_order > 1:
        raise ValueError(f"{config.name} has the group {config.group}: only the embedded engine computes its layers")
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
    }


def write_view(checkpoint: Checkpoint, directory: Path) -> Path:
    """Make `directory` show the checkpoint; weights and tokenizer are linked, not copied.

    Raises OSError; ValueError as `hugging_face_config`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(hugging_face_config(checkpoint.config), indent=2), "utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(checkpoint), indent=2), "utf-8")
    for source in (checkpoint.directory / WEIGHTS_FILE, checkpoint.tokenizer_path):
        link = directory / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    return directory


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, str]:
    """vLLM's own grammars need a tokenizer, and to know which token ends an answer."""
    ends = checkpoint.config.eos_token_ids[:1]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": Tokenizer(checkpoint.tokenizer_path).decode(ends, skip_special=False),
    }
