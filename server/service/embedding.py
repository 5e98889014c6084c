"""ρ for whoever asks over HTTP: questions, and texts for /v1/embeddings. No text is read before it is bounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import tokenizers

from kb.encoder.minilm import packaged_model
from kb.encoder.protocol import Encoder
from kb.index.segment import Vectors
from server.engine.protocol import Engine
from server.service.errors import ContextTooLong
from server.service.lanes import Lane, Lanes

TEXTS_BETWEEN_STEPS = 4
"""So many texts are embedded on the engine's thread, in the midst of its steps: about the time of one step."""
SHORT_CHARACTERS = 1024
"""Nothing that is done to a text of this length is worth a change of threads."""
SLICE_TEXTS = 16
"""Embedded in one go on a lane: others get their turn in between."""


class EncoderTokenizer(Protocol):
    """How the encoder splits text. Thread-safe."""

    @property
    def max_tokens(self) -> int:
        """The encoder reads no further than this."""
        ...

    @property
    def max_characters(self) -> int:
        """No longer text has as few tokens, unless its words are longer than the encoder knows any."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Word pieces per text, the two special ones included."""
        ...

    def readable(self, text: str) -> str:
        """The beginning of the text, as far as the encoder reads."""
        ...


class PackagedTokenizer:
    """See `EncoderTokenizer`. Of the packaged sentence encoder, all-MiniLM-L6-v2; raises FileNotFoundError."""

    def __init__(self, max_tokens: int = 256) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(packaged_model() / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        longest_word = json.loads(self._tokenizer.to_str())["model"]["max_input_chars_per_word"]
        self.max_tokens = max_tokens
        self.max_characters = max_tokens * int(longest_word)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def readable(self, text: str) -> str:
        text = text[: self.max_characters]
        (encoding,) = self._tokenizer.encode_batch([text])
        if len(encoding.ids) <= self.max_tokens:
            return text
        # What comes first and last is special. The last piece that is read stands before the closing one.
        end: int = encoding.offsets[self.max_tokens - 2][1]
        return text[:end]


class Embedding:
    """Embeds what requests bring."""

    def __init__(self, encoder: Encoder, tokenizer: EncoderTokenizer, engine: Engine, lanes: Lanes) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._engine = engine
        self._lanes = lanes

    async def of_questions(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension]; what the encoder would not read is not looked at."""
        if max(map(len, texts)) > SHORT_CHARACTERS:
            texts = await self._lanes.reads.run(lambda: [self._tokenizer.readable(text) for text in texts])
        return await self._embed(texts, self._lanes.questions)

    async def of_inputs(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """float32 [len(texts), dimension], and the word pieces of all of them.

        Raises ContextTooLong for a text that the encoder would cut.
        """
        for index, text in enumerate(texts):
            if len(text) > self._tokenizer.max_characters:
                raise self._too_long(index, f"{len(text)} characters")
        counts = await self._lanes.reads.run(partial(self._tokenizer.count, texts))
        for index, count in enumerate(counts):
            if count > self._tokenizer.max_tokens:
                raise self._too_long(index, f"{count} tokens")
        return await self._embed(texts, self._lanes.reads), sum(counts)

    async def _embed(self, texts: Sequence[str], lane: Lane) -> Vectors:
        """A few are fastest on the engine's thread, which has every core; many would make its streams wait."""
        if len(texts) <= TEXTS_BETWEEN_STEPS:
            return await self._engine.run(partial(self._encoder.embed, texts))
        slices = [texts[start : start + SLICE_TEXTS] for start in range(0, len(texts), SLICE_TEXTS)]
        return np.concatenate([await lane.run(partial(self._encoder.embed, some)) for some in slices])

    def _too_long(self, index: int, size: str) -> ContextTooLong:
        message = f"The text has {size}; the encoder reads at most {self._tokenizer.max_tokens} tokens."
        return ContextTooLong(message, f"input[{index}]")
