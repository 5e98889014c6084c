"""Facts encoded once, as constants: keys and values of every fact a training run mounts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from kan.prompt import PromptBuilder
from kan.training.decoder import FrozenDecoder, Knowledge, Rows

ROWS_PER_PASS = 512
"""Tokens encoded together: enough to keep the cores busy."""


class FactBank:
    """Pages by fact text, in memory: layers · 2 · H_kv · d numbers a token (23 KB for SmolLM2 in bf16)."""

    def __init__(self, decoder: FrozenDecoder, prompt: PromptBuilder) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._preamble = self._encode([list(prompt.preamble)], 0, decoder.empty_knowledge(1))[0]
        """[layers, 2, H_kv, P, d]"""
        self._facts: dict[str, Tensor] = {}

    @property
    def first_position(self) -> int:
        """Of every fact: the length of the preamble."""
        return len(self._prompt.preamble)

    def __contains__(self, text: str) -> bool:
        return text in self._facts

    def length(self, text: str) -> int:
        """Tokens of an encoded fact."""
        return self._facts[text].shape[3]

    @torch.no_grad()
    def add(self, texts: Iterable[str], advance: Callable[[int], None] = lambda facts: None) -> None:
        """Encode those that are new, calling `advance` with the number done after each pass."""
        tokens = {text: list(self._prompt.fact(text)) for text in dict.fromkeys(texts) if text not in self._facts}
        # Facts of like length share a pass, so that little is spent on padding.
        for texts_of_pass in _passes(sorted(tokens, key=lambda text: len(tokens[text])), tokens):
            prefix = self.knowledge([()] * len(texts_of_pass))
            batch = [tokens[text] for text in texts_of_pass]
            self._facts.update(zip(texts_of_pass, self._encode(batch, self.first_position, prefix), strict=True))
            advance(len(texts_of_pass))

    def knowledge(self, mounted: Sequence[Sequence[str]]) -> Knowledge:
        """Preamble and the given facts of each sequence, side by side and padded."""
        parts = [[self._preamble, *(self._facts[text] for text in texts)] for texts in mounted]
        widths = [sum(part.shape[3] for part in one) for one in parts]
        layers, two, kv_heads, _, d = self._preamble.shape
        kv = self._preamble.new_zeros(layers, two, len(parts), kv_heads, max(widths), d)
        owner = torch.full((len(parts), max(widths)), -1, device=kv.device)
        for sequence, (one, width) in enumerate(zip(parts, widths, strict=True)):
            kv[:, :, sequence, :, :width] = torch.cat(one, dim=3)
            lengths = torch.tensor([part.shape[3] for part in one])
            owner[sequence, :width] = torch.arange(len(one)).repeat_interleave(lengths)
        return Knowledge(kv, owner)

    @torch.no_grad()
    def _encode(self, tokens: list[list[int]], first_position: int, prefix: Knowledge) -> list[Tensor]:
        """-> [layers, 2, H_kv, tokens, d] each."""
        rows = Rows.of(tokens, [first_position] * len(tokens)).to(self._decoder.device)
        captured: list[Tensor] = []
        self._decoder.hidden(rows, prefix, None, captured)
        kv = torch.stack(captured).transpose(2, 3)
        return [part.contiguous() for part in torch.split(kv, [len(one) for one in tokens], dim=3)]


def _passes(texts: list[str], tokens: dict[str, list[int]]) -> Iterable[list[str]]:
    batch: list[str] = []
    for text in texts:
        if batch and (len(batch) + 1) * len(tokens[text]) > ROWS_PER_PASS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
