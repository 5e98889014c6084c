"""A model small enough for any test: random weights of a fixed seed, a real byte-level tokenizer, ChatML."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from kan.attention import Prefix, SequenceRows, pages_for
from kan.checkpoint.directory import Checkpoint, expected_tensors, write_checkpoint
from kan.config import KANConfig
from kan.model import Batch, KANModel

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2, as in SmolLM2. The 256 bytes follow."""

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named Tiny<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_config(**overrides: Any) -> KANConfig:
    settings: dict[str, Any] = {
        "name": "tiny",
        "vocab_size": 259,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 1024,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_ids": (2,),
    }
    return KANConfig(**(settings | overrides))


def tiny_tensors(config: KANConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Weights large enough that every layer matters and logits differ clearly (their deviation is near 2)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_tensors(config).items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("norm.weight"):
            weight = 1 + 0.1 * noise
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            weight = 2 * noise / config.hidden_size**0.5
        elif name.endswith(".bias"):
            weight = 0.3 * noise
        else:
            weight = 1.5 * noise / shape[1] ** 0.5
        tensors[name] = weight.to(dtype)
    return tensors


def tiny_tokenizer_json() -> str:
    """One token per byte, and the three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    text: str = tokenizer.to_str()
    return text


def tiny_checkpoint(directory: Path, *, seed: int = 0, **overrides: Any) -> Checkpoint:
    """Write a checkpoint into `directory`/tiny (or `directory`/`name`) and open it."""
    config = tiny_config(**overrides)
    return write_checkpoint(
        directory / config.name,
        config,
        tiny_tensors(config, seed),
        tiny_tokenizer_json(),
        CHATML,
        source=f"random weights, seed {seed}",
    )


def base_logits(model: KANModel, tokens: Sequence[int], chunks: Sequence[int] = ()) -> torch.Tensor:
    """Logits [len(tokens), vocabulary] of one sequence without knowledge, fed in chunks of the given lengths."""
    count = pages_for(len(tokens))
    cache = model.new_cache(count + 1)
    pages = list(range(count, 0, -1))  # neither in order nor from 0: the page table must be followed
    rows = []
    for start, stop in pairwise([0, *accumulate(chunks), len(tokens)]):
        attention = cache.attention([SequenceRows(Prefix(), pages, start, stop - start)])
        batch = Batch(torch.tensor(tokens[start:stop]), torch.arange(start, stop), attention)
        rows.append(model.logits(model.forward(batch)))
    return torch.cat(rows)
