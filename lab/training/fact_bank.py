"""Facts encoded once, as constants: keys and values of every fact a training run mounts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kan.knowledge.adapter import Adapter
from kan.knowledge.pages import PageContent
from kan.model import Batch, KANModel
from kan.prompt import PromptBuilder
from kan.rope import rotate
from lab.training.differentiable import DenseAttention, Knowledge, Rows

ROWS_PER_PASS = 512
"""Tokens encoded together: enough to keep the cores busy."""


class FactBank:
    """Page content by fact text, in memory: layers · 2 · H_kv · d numbers a token (23 KB for SmolLM2 in bf16)."""

    def __init__(self, model: KANModel, prompt: PromptBuilder) -> None:
        self._model = model
        self._prompt = prompt
        preamble = self._encode([list(prompt.preamble)], 0, Knowledge.none(model, 1))[0]
        self._preamble = self._columns(preamble, torch.arange(preamble.tokens))
        self._facts: dict[str, PageContent] = {}

    @property
    def first_position(self) -> int:
        """Of every fact: the length of the preamble."""
        return len(self._prompt.preamble)

    def __contains__(self, text: str) -> bool:
        return text in self._facts

    def length(self, text: str) -> int:
        """Tokens of an encoded fact."""
        return self._facts[text].tokens

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

    def magnitude(self) -> Tensor:
        """Root mean square of keys, and of values, per layer, over all facts: [layers, 1, 2 · H_kv · d] float32."""
        kinds = ([one.keys for one in self._facts.values()], [one.values for one in self._facts.values()])
        width = math.prod(self._preamble.shape[3:])
        tokens = sum(one.tokens for one in self._facts.values())
        squares = [sum(part.float().square().sum(dim=(1, 2, 3)) for part in parts) for parts in kinds]
        found = torch.stack([torch.as_tensor(one) / (tokens * width) for one in squares], dim=1).sqrt()
        return found.repeat_interleave(width, dim=1).unsqueeze(1).cpu()

    def knowledge(self, mounted: Sequence[Sequence[str]], adapter: Adapter | None = None) -> Knowledge:
        """Preamble and the given facts of each sequence, side by side and padded. Differentiable in the adapter."""
        texts = list(dict.fromkeys(text for one in mounted for text in one))
        columns = torch.cat((self._preamble, *self._adapted(texts, adapter)), dim=2)
        ends = list(accumulate((self.length(text) for text in texts), initial=self.first_position))
        places = {text: torch.arange(*bounds) for text, bounds in zip(texts, pairwise(ends), strict=True)}
        parts = [[torch.arange(self.first_position), *(places[text] for text in one)] for one in mounted]
        index = pad_sequence([torch.cat(one) for one in parts], batch_first=True)
        owner = pad_sequence([_owners(one) for one in parts], batch_first=True, padding_value=-1)
        kv = columns[:, :, index.to(columns.device)]
        return Knowledge(kv.transpose(3, 4), owner.to(columns.device))

    def _adapted(self, texts: Sequence[str], adapter: Adapter | None) -> list[Tensor]:
        """Of all the facts together, no tensor if there are none."""
        if not texts:
            return []
        keys = torch.cat([self._facts[text].keys for text in texts], dim=1)
        values = torch.cat([self._facts[text].values for text in texts], dim=1)
        positions = torch.cat([torch.arange(self.length(text)) for text in texts]) + self.first_position
        content = PageContent(keys, values)
        return [self._columns(content if adapter is None else adapter(content), positions)]

    def _columns(self, content: PageContent, positions: Tensor) -> Tensor:
        """[layers, 2, tokens, H_kv, d], keys after RoPE."""
        keys = rotate(content.keys, *self._model.rotary.at(positions.to(content.keys.device)))
        return torch.stack((keys, content.values), dim=1)

    @torch.no_grad()
    def _encode(self, tokens: list[list[int]], first_position: int, prefix: Knowledge) -> list[PageContent]:
        rows = Rows.of(tokens, [first_position] * len(tokens)).to(self._model.device)
        captured: list[tuple[Tensor, Tensor]] = []
        nothing = torch.empty(0, dtype=torch.int64, device=self._model.device)
        attention = DenseAttention(rows, prefix, None)
        self._model.forward(Batch(rows.tokens, rows.positions, attention, captured, outputs=nothing))
        lengths = [len(one) for one in tokens]
        keys, values = (torch.split(torch.stack(kind), lengths, dim=1) for kind in zip(*captured, strict=True))
        return [PageContent(k.contiguous(), v.contiguous()) for k, v in zip(keys, values, strict=True)]


def _owners(parts: Sequence[Tensor]) -> Tensor:
    return torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))


def _passes(texts: list[str], tokens: dict[str, list[int]]) -> Iterable[list[str]]:
    batch: list[str] = []
    for text in texts:
        if batch and (len(batch) + 1) * len(tokens[text]) > ROWS_PER_PASS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
