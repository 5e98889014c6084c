"""What attention over mounted facts costs with their pages in 8 bits, beside pages in the model's own numbers.

As a decode step reads them: all layers in turn, and so many sets of facts in turn that their pages do not stay in the
cache. Every round takes each kind once, one after the other; a value is one layer's CPU time on one thread, which other
processes disturb least.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for
from kan.config import KANConfig
from kan.kernels import KernelsName
from kan.kernels.choice import choose_kernels
from kan.kernels.memory import page_bytes
from kan.kernels.operations import Cache
from kan.kernels.small_pages import tokens_per_small_page
from loadtests.report import Report
from loadtests.scenario import Progress

READ_BYTES = 96 << 20
"""Of pages in the model's own numbers: three times a large processor's last cache."""
CONTEXT = 32
"""Tokens of a question before the rows that are measured."""
WARM_UP = 2
TOLERANCE = 0.1
"""Of the largest difference of an output between the two kinds, in deviations of the outputs: rounding to 8 bits moves
them by some hundredths."""
KINDS = {"own": False, "8 bits": True}


@dataclass(frozen=True, slots=True)
class PagesPlan:
    """Shape as SmolLM2-135M's. facts: mounted at once, of so many `tokens`; rows: computed together, 1 is a decode
    step; rounds: values per series."""

    facts: int
    tokens: int
    rows: Sequence[int]
    rounds: int
    seed: int
    kernels: KernelsName
    dtype: torch.dtype
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    read_bytes: int = READ_BYTES

    @property
    def config(self) -> KANConfig:
        return KANConfig(
            name="noise", vocab_size=1, hidden_size=self.heads * self.head_dim, intermediate_size=16,
            num_layers=self.layers, num_heads=self.heads, num_kv_heads=self.kv_heads, head_dim=self.head_dim,
            max_position_embeddings=8192, rope_theta=1e4, rms_norm_eps=1e-5, tie_word_embeddings=True,
            attention_bias=False, mlp_bias=False, bos_token_id=None, eos_token_ids=(),
        )  # fmt: skip

    @property
    def sets(self) -> int:
        """Of facts, read in turn."""
        of_set = self.facts * pages_for(self.tokens) * page_bytes(self.config, self.dtype)
        return max(1, -(-READ_BYTES // of_set))


class Scene:
    """A cache with every set of facts in both kinds of pages, and one context."""

    def __init__(self, plan: PagesPlan) -> None:
        kernels = choose_kernels(plan.kernels, plan.config, plan.dtype)
        self.kernels = kernels.name
        self._plan = plan
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._own = pages_for(CONTEXT + max(plan.rows))
        per_fact = pages_for(plan.tokens) + pages_for(plan.tokens, tokens_per_small_page(plan.dtype))
        pages = self._own + plan.sets * plan.facts * per_fact
        self.cache: Cache = kernels.new_cache(plan.config, pages, plan.dtype)
        free = iter(range(self._own, pages))
        self.cache.write(range(self._own), *self._noise(self._own * PAGE_SIZE))
        self.prefixes: dict[str, list[Prefix]] = {kind: [] for kind in KINDS}
        for _ in range(plan.sets):
            self._add_set(free)

    def step(self, prefix: Prefix, qkv: Tensor) -> Tensor:
        """One step's attention in all layers; the last one's output."""
        attention = self.cache.attention([SequenceRows(prefix, range(self._own), CONTEXT, len(qkv))])
        exact = torch.float64 if self._plan.dtype == torch.float64 else torch.float32
        cos, sin = (torch.full((len(qkv), 1, self._plan.head_dim), one, dtype=exact) for one in (1.0, 0.0))
        out = qkv
        for layer in range(self._plan.layers):
            out = attention(layer, qkv, cos, sin)
        return out

    def queries(self, rows: int) -> Tensor:
        plan = self._plan
        shape = (rows, plan.heads + 2 * plan.kv_heads, plan.head_dim)
        return torch.randn(shape, generator=self._generator).to(plan.dtype)

    def _noise(self, tokens: int) -> Tensor:
        """[2, layers, tokens, H_kv, d]"""
        plan = self._plan
        shape = (2, plan.layers, tokens, plan.kv_heads, plan.head_dim)
        return torch.randn(shape, generator=self._generator).to(plan.dtype)

    def _add_set(self, free: Iterator[int]) -> None:
        plan = self._plan
        sizes = {kind: tokens_per_small_page(plan.dtype) if small else PAGE_SIZE for kind, small in KINDS.items()}
        pages: dict[str, list[int]] = {kind: [] for kind in KINDS}
        for _ in range(plan.facts):
            content = self._noise(plan.tokens)
            for kind, small in KINDS.items():
                own = [next(free) for _ in range(pages_for(plan.tokens, sizes[kind]))]
                (self.cache.write_small if small else self.cache.write)(own, *content)
                pages[kind] += own
        lengths = (plan.tokens,) * plan.facts
        phi = torch.randn(plan.layers, plan.heads, plan.facts, generator=self._generator)
        for kind, size in sizes.items():
            self.prefixes[kind].append(Prefix(tuple(pages[kind]), lengths, phi, (size,) * plan.facts))


@torch.inference_mode()
def run(plan: PagesPlan, progress: Progress) -> Report:
    """Raises KernelsUnavailable, a ValueError, for kernels that are not there."""
    torch.set_num_threads(1)
    scene = Scene(plan)
    shape = f"{plan.heads} heads, {plan.kv_heads} of keys, {plan.head_dim} wide, {plan.layers} layers"
    report = Report("pages", shape, f"{plan.dtype}, {scene.kernels} kernels, one thread")
    for done, rows in enumerate(plan.rows):
        progress(f"{rows} rows", done, len(plan.rows))
        _measure(report, scene, plan, rows)
    whole, small = (page_bytes(plan.config, plan.dtype, small=one) for one in (False, True))
    report.figures["memory of a fact, own (KiB)"] = pages_for(plan.tokens) * whole / 1024
    size = tokens_per_small_page(plan.dtype)
    report.figures["memory of a fact, 8 bits (KiB)"] = pages_for(plan.tokens, size) * small / 1024
    report.notes["method"] = (
        f"{plan.facts} facts of {plan.tokens} tokens behind {CONTEXT} of context, {plan.sets} sets in turn, kinds "
        "alternating; µs a layer"
    )
    return report


def _measure(report: Report, scene: Scene, plan: PagesPlan, rows: int) -> None:
    qkv = scene.queries(rows)
    found = {kind: scene.step(prefixes[0], qkv) for kind, prefixes in scene.prefixes.items()}
    own, small = (found[kind].double() for kind in KINDS)
    error = float((own - small).abs().max() / own.std())
    if not error < TOLERANCE:  # a fast wrong result is no evidence
        report.failures.append(f"{rows} rows: 8 bits differ by {error:.2g} deviations")
    report.figures[f"{rows} rows: largest difference of an output (deviations)"] = error
    values: dict[str, list[float]] = {kind: [] for kind in scene.prefixes}
    for done in range(WARM_UP + plan.rounds):
        for kind, prefixes in scene.prefixes.items():
            started = time.process_time()
            for prefix in prefixes:
                scene.step(prefix, qkv)
            seconds = time.process_time() - started
            if done >= WARM_UP:
                values[kind].append(1e6 * seconds / plan.layers / len(prefixes))
    for kind, series in values.items():
        report.add_series(f"{rows} rows: {kind} (µs)", series, plan.rounds)
    report.ratio(f"{rows} rows: own / 8 bits", f"{rows} rows: own (µs)", f"{rows} rows: 8 bits (µs)")
