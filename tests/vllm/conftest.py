"""The real vLLM and the embedded engine side by side, on the real model in float32. Run by `make test-vllm`."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.adapter import Adapter
from kan.knowledge.fit import fits
from kan.knowledge.phi import Phi
from kan.prompt import ChatMessage, PromptBuilder
from kb.encoder.minilm import MiniLMEncoder
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.paged.options import EngineOptions
from server.engine.protocol import Engine, FactTokens, GenerationRequest, MountedFact, SamplingParams
from server.engine.vllm.arguments import VllmOptions
from server.engine.vllm.engine import VllmEngine
from server.loading import load_learned
from tests.tiny import tiny_checkpoint

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` has an environment with it")

DEMO = Path(__file__).resolve().parents[2] / "server" / "demo" / "facts.ndjson"
MOUNTED = 8


@dataclass(frozen=True)
class Fact:
    """One of the demo's."""

    id: str
    text: str


@dataclass(frozen=True)
class Laboratory:
    """A model, its learned φ, the demo's facts with their embeddings, and where files go."""

    checkpoint: Checkpoint
    prompt: PromptBuilder
    phi: Phi
    encoder: MiniLMEncoder
    facts: tuple[Fact, ...]
    directory: Path

    def tokens(self, text: str) -> FactTokens:
        return FactTokens(self.prompt.fact_key(self.checkpoint.fingerprint, text), self.prompt.fact(text))

    def request(self, question: str, *, count: int = MOUNTED, **sampling: Any) -> GenerationRequest:
        """Greedy, over the facts that fit best; `count` 0 mounts none."""
        vectors = self.encoder.embed([question, *(fact.text for fact in self.facts)])
        scores = vectors[1:] @ vectors[0]
        best = sorted(range(len(self.facts)), key=lambda place: -scores[place])[:count]
        found = fits(vectors[0], vectors[1:][best])
        mounted = tuple(
            MountedFact(self.tokens(self.facts[place].text), fit) for place, fit in zip(best, found, strict=True)
        )
        prompt = self.prompt.chat([ChatMessage("user", question)], with_knowledge=bool(mounted))
        params = SamplingParams(**{"temperature": 0.0, "max_tokens": 16, "ignore_eos": True, **sampling})
        return GenerationRequest("test", tuple(prompt), mounted, params)

    @asynccontextmanager
    async def embedded(self, page_dir: Path | None = None) -> AsyncIterator[EmbeddedEngine]:
        options = EngineOptions(dtype="float32", kernels="torch", pages=1024, page_dir=page_dir)
        engine = EmbeddedEngine.start(self.checkpoint, self.prompt, options, self.phi)
        try:
            yield engine
        finally:
            await engine.aclose()

    @asynccontextmanager
    async def vllm(self, arguments: str = "", **changed: Any) -> AsyncIterator[VllmEngine]:
        options = VllmOptions(
            view_dir=self.directory / "views",
            page_dir=changed.pop("page_dir", self.directory / "pages"),
            disk_bytes=1 << 32,
            dtype="float32",
            arguments=arguments,
            **changed,
        )
        with patch.dict(os.environ):  # what one way to run sets must not be there for the next
            engine = VllmEngine.start(self.checkpoint, self.prompt, options, self.phi, "test")
            try:
                yield engine
            finally:
                await engine.aclose()


@pytest.fixture(scope="session")
def small_laboratory(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """A random model whose heads can be divided, and a φ and an adapter that differ in every layer and head."""
    directory = tmp_path_factory.mktemp("small")
    checkpoint = tiny_checkpoint(
        directory, num_layers=4, num_heads=8, num_kv_heads=2, head_dim=32, hidden_size=64, vocab_size=259
    )
    shape = (4, 8, *laboratory.phi.coefficients.shape[2:])
    generator = torch.Generator().manual_seed(1)
    coefficients = 20 * torch.randn(shape, generator=generator)
    shapes = ((4, 128, 3), (4, 3, 128), (4, 1, 128))
    adapter = Adapter(*(0.2 * torch.randn(one, generator=generator) for one in shapes))
    prompt = PromptBuilder.from_checkpoint(checkpoint)
    facts = tuple(Fact(fact.id, fact.text[:60]) for fact in laboratory.facts[:24])
    return Laboratory(checkpoint, prompt, Phi(coefficients, adapter=adapter), laboratory.encoder, facts, directory)


@pytest.fixture(scope="session")
def laboratory(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    encoder = MiniLMEncoder()
    phi, _ = load_learned("auto", smollm2, encoder.model_fingerprint)
    assert phi is not None
    facts = tuple(Fact(one["id"], one["text"]) for one in map(json.loads, DEMO.read_text("utf-8").splitlines()))
    prompt = PromptBuilder.from_checkpoint(smollm2)
    return Laboratory(smollm2, prompt, phi, encoder, facts, tmp_path_factory.mktemp("vllm"))


async def mounted(engine: Engine, requests: Sequence[GenerationRequest]) -> None:
    """Make everything that the requests mount available."""
    facts = {one.fact.key: one.fact for request in requests for one in request.facts}
    await engine.encode(list(facts.values()))
