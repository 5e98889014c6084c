"""The weights of a checkpoint in the formats of other servers, so that all of them run the same model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from kan.checkpoint.directory import Checkpoint
from kan.checkpoint.gguf import read_gguf
from kan.checkpoint.imported import ModelImportError, no_progress
from kan.checkpoint.sources import PACKAGED_MODELS, packaged_file
from server.engine.vllm.plugin.hugging_face import hugging_face_config, write_view


class PeerWeightsError(Exception):
    """The weights cannot be had in a peer's format; the message says why."""


def hugging_face_directory(checkpoint: Checkpoint, directory: Path) -> Path:
    """What `transformers` and vLLM load; the weights are linked, not copied. Raises OSError."""
    write_view(checkpoint, directory)
    config = {**hugging_face_config(checkpoint.config), "architectures": ["LlamaForCausalLM"]}
    ends = checkpoint.config.eos_token_ids
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": checkpoint.chat_template(),
        "eos_token": tokenizers.Tokenizer.from_file(str(checkpoint.tokenizer_path)).id_to_token(ends[0])
        if ends
        else None,
    }
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        (directory / name).write_text(json.dumps(content, indent=2), "utf-8")
    (directory / "tokenizer.json").write_bytes(checkpoint.tokenizer_path.read_bytes())
    return directory


def gguf_files(
    checkpoint: Checkpoint, source: Path, kinds: Iterable[str], quantize: Path, directory: Path
) -> dict[str, Path]:
    """By type (`q8_0`, `bf16`, …); the source itself for its own type. Raises PeerWeightsError, OSError.

    source      a GGUF file that has the checkpoint's weights, whatever its type
    quantize    llama.cpp's own tool, which makes the other types of it
    """
    _require_same_weights(checkpoint, source)
    files = {}
    for kind in kinds:
        if kind in source.name.lower():
            files[kind] = source
            continue
        files[kind] = directory / f"{kind}.gguf"
        command = [str(quantize), "--allow-requantize", str(source), str(files[kind]), kind.upper()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PeerWeightsError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return files


def packaged_gguf(checkpoint: Checkpoint) -> Path:
    """The file that the checkpoint was imported from. Raises PeerWeightsError."""
    if checkpoint.source not in PACKAGED_MODELS:
        raise PeerWeightsError(
            f"{checkpoint.directory} is not of a packaged model: --gguf FILE with its weights is needed"
        )
    try:
        return packaged_file(PACKAGED_MODELS[checkpoint.source])
    except ModelImportError as error:
        raise PeerWeightsError(str(error)) from error


def _require_same_weights(checkpoint: Checkpoint, file: Path) -> None:
    try:
        found = read_gguf(file, checkpoint.config.name, no_progress).tensors
    except ModelImportError as error:
        raise PeerWeightsError(str(error)) from error
    own = checkpoint.tensors()
    if found.keys() != own.keys() or not all(bool((found[name] == own[name]).all()) for name in own):
        raise PeerWeightsError(f"{file} does not have the weights of {checkpoint.directory}")
