"""ρ for whoever asks over HTTP: questions, and texts for /v1/embeddings. No text is read before it is bounded."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import tokenizers

from kb.encoder.minilm import packaged_model
from kb.encoder.protocol import Encoder
from kb.index.segment import Vectors
from server.engine.protocol import Engine
from server.service.admission import Admission, Bounds, Key
from server.service.errors import ContextTooLong
from server.service.lanes import Lanes

TEXTS_BETWEEN_STEPS = 4
"""So many texts are embedded on the engine's thread, in the midst of its steps: about the time of one step."""
SHORT_CHARACTERS = 1024
"""Nothing that is done to a text of this length is worth a change of threads."""
MAX_WINDOWS = 8
"""Of one question."""
QUESTION_SENTENCES = 4
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*")
SLICE_TEXTS = 16
"""Embedded in one go on a lane: others get their turn in between."""
SLICES_AT_ONCE = 2
"""One is embedded, one is ready to be."""


@dataclass(frozen=True, slots=True)
class Windows:
    """A question in parts that the encoder can read; most have one."""

    texts: tuple[str, ...]
    vectors: Vectors
    """float32 [windows, dimension]"""


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

    def windows(self, text: str) -> tuple[str, ...]:
        """Parts of the text, each as long as the encoder reads: the whole text if that is short."""
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

    def windows(self, text: str) -> tuple[str, ...]:
        """At most MAX_WINDOWS, evenly spread from the beginning to the end: all of the text, unless it is longer than
        that. Before them what may be the question itself, since it would drown in what surrounds it: the first and the
        last line, and the last QUESTION_SENTENCES sentences that ask."""
        half = MAX_WINDOWS * self.max_characters // 2
        text = text if len(text) <= 2 * half else text[:half] + text[-half:]
        (encoding,) = self._tokenizer.encode_batch([text])
        pieces = encoding.offsets[1:-1]  # what comes first and last is special
        room = self.max_tokens - 2
        if len(pieces) <= room:
            return (text,)
        count = min(MAX_WINDOWS, math.ceil(len(pieces) / room))
        starts = [round(place * (len(pieces) - room) / (count - 1)) for place in range(count)]
        spread = [text[pieces[start][0] : pieces[start + room - 1][1]] for start in starts]
        likely = [one for one in _likely_questions(text) if len(one) <= self.max_characters]
        short = [one for one, size in zip(likely, self.count(likely), strict=True) if size <= self.max_tokens]
        return tuple(dict.fromkeys([*short, *spread]))


def _likely_questions(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ends = [lines[0], lines[-1]] if len(lines) > 1 else []
    asked = [sentence for line in lines for sentence in _SENTENCE_END.split(line) if sentence.endswith(("?", "？"))]
    return ends + asked[-QUESTION_SENTENCES:]


class Embedding:
    """Embeds what requests bring. At most `requests` of them are let in at once, by the admissions before it."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: EncoderTokenizer,
        engine: Engine,
        lanes: Lanes,
        requests: int,
        weights: Mapping[str, float],
    ) -> None:
        self._slices = Admission(
            "texts", Bounds(slots=SLICES_AT_ONCE, waiting=requests, per_caller=SLICES_AT_ONCE + requests), weights
        )
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._engine = engine
        self._lanes = lanes

    async def of_questions(self, caller: str, texts: Sequence[str]) -> list[Windows]:
        """One per text."""
        windows = [await self._windows(text) for text in texts]
        vectors = await self._embed(caller, [text for one in windows for text in one])
        ends = itertools.accumulate(map(len, windows))
        return [Windows(one, vectors[end - len(one) : end]) for one, end in zip(windows, ends, strict=True)]

    async def of_inputs(self, caller: str, texts: Sequence[str], param: Callable[[int], str]) -> tuple[Vectors, int]:
        """float32 [len(texts), dimension], and the word pieces of all of them. `param`: the request field of the text
        at a place.

        Raises ContextTooLong for a text that the encoder would cut.
        """
        for index, text in enumerate(texts):
            if len(text) > self._tokenizer.max_characters:
                raise self._too_long(param(index), f"{len(text)} characters")
        counts = await self._lanes.reads.run(partial(self._tokenizer.count, texts))
        for index, count in enumerate(counts):
            if count > self._tokenizer.max_tokens:
                raise self._too_long(param(index), f"{count} tokens")
        return await self._embed(caller, texts), sum(counts)

    async def _windows(self, text: str) -> tuple[str, ...]:
        if len(text) <= SHORT_CHARACTERS:
            return (text,)
        return await self._lanes.reads.run(partial(self._tokenizer.windows, text))

    async def _embed(self, caller: str, texts: Sequence[str]) -> Vectors:
        """A few are fastest on the engine's thread, which has every core; many would make its streams wait, and short
        questions on a lane that those need. There callers take turns, slice by slice."""
        if len(texts) <= TEXTS_BETWEEN_STEPS:
            return await self._engine.run(partial(self._encoder.embed, texts))
        slices = [texts[start : start + SLICE_TEXTS] for start in range(0, len(texts), SLICE_TEXTS)]
        return np.concatenate([await self._embedded(Key(caller), some) for some in slices])

    async def _embedded(self, key: Key, texts: Sequence[str]) -> Vectors:
        async with self._slices.enter(key):
            return await self._lanes.texts.run(partial(self._encoder.embed, texts))

    def _too_long(self, param: str, size: str) -> ContextTooLong:
        message = f"The text has {size}; the encoder reads at most {self._tokenizer.max_tokens} tokens."
        return ContextTooLong(message, param)
