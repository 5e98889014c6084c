"""What attention over mounted facts costs with their pages in 8 and in 4 bits, beside pages in the model's own numbers.

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
from kan.quantization import Bits
from loadtests.report import Report
from loadtests.scenario import Progress

READ_BYTES = 96 << 20
"""Of pages in the model's own numbers: three times a large processor's last cache."""
CONTEXT = 32
"""Tokens of a question before the rows that are measured."""
WARM_UP = 2
TOLERANCE = {"8 bits": 0.1, "4 bits": 1.0}
"""Of the largest difference of an output from that of the model's own numbers, in deviations of the outputs: rounding
to 8 bits moves them by some hundredths, to 4 bits by some tenths."""
KINDS: dict[str, Bits | None] = {"own": None, "8 bits": 8, "4 bits": 4}


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


def per_page(dtype: torch.dtype, bits: Bits | None) -> int:
    """Tokens in a page of this kind."""
    return PAGE_SIZE if bits is None else tokens_per_small_page(dtype, bits)


class Scene:
    """A cache for each kind of pages, with every set of facts and one context."""

    def __init__(self, plan: PagesPlan) -> None:
        kernels = choose_kernels(plan.kernels, plan.config, plan.dtype)
        self.kernels = kernels.name
        self._plan = plan
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._own = pages_for(CONTEXT + max(plan.rows))
        context = self._noise(self._own * PAGE_SIZE)
        self.caches: dict[str, Cache] = {}
        self._free: dict[str, Iterator[int]] = {}
        for kind, bits in KINDS.items():
            pages = self._own + plan.sets * plan.facts * pages_for(plan.tokens, per_page(plan.dtype, bits))
            self.caches[kind] = kernels.new_cache(plan.config, pages, plan.dtype, bits or 8)
            self.caches[kind].write(range(self._own), *context)
            self._free[kind] = iter(range(self._own, pages))
        self.prefixes: dict[str, list[Prefix]] = {kind: [] for kind in KINDS}
        for _ in range(plan.sets):
            self._add_set()

    def step(self, kind: str, prefix: Prefix, qkv: Tensor) -> Tensor:
        """One step's attention in all layers; the last one's output."""
        attention = self.caches[kind].attention([SequenceRows(prefix, range(self._own), CONTEXT, len(qkv))])
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

    def _add_set(self) -> None:
        plan = self._plan
        sizes = {kind: per_page(plan.dtype, bits) for kind, bits in KINDS.items()}
        pages: dict[str, list[int]] = {kind: [] for kind in KINDS}
        for _ in range(plan.facts):
            content = self._noise(plan.tokens)
            for kind, cache in self.caches.items():
                own = [next(self._free[kind]) for _ in range(pages_for(plan.tokens, sizes[kind]))]
                (cache.write if KINDS[kind] is None else cache.write_small)(own, *content)
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
    for kind, bits in KINDS.items():
        pages = pages_for(plan.tokens, per_page(plan.dtype, bits))
        report.figures[f"memory of a fact, {kind} (KiB)"] = pages * page_bytes(plan.config, plan.dtype, bits) / 1024
    report.notes["method"] = (
        f"{plan.facts} facts of {plan.tokens} tokens behind {CONTEXT} of context, {plan.sets} sets in turn, kinds "
        "alternating; µs a layer"
    )
    return report


def _measure(report: Report, scene: Scene, plan: PagesPlan, rows: int) -> None:
    qkv = scene.queries(rows)
    found = {kind: scene.step(kind, prefixes[0], qkv).double() for kind, prefixes in scene.prefixes.items()}
    for kind, tolerance in TOLERANCE.items():
        error = float((found["own"] - found[kind]).abs().max() / found["own"].std())
        if not error < tolerance:  # a fast wrong result is no evidence
            report.failures.append(f"{rows} rows: {kind} differ by {error:.2g} deviations")
        report.figures[f"{rows} rows: largest difference of an output, {kind} (deviations)"] = error
    values: dict[str, list[float]] = {kind: [] for kind in scene.prefixes}
    for done in range(WARM_UP + plan.rounds):
        for kind, prefixes in scene.prefixes.items():
            started = time.process_time()
            for prefix in prefixes:
                scene.step(kind, prefix, qkv)
            seconds = time.process_time() - started
            if done >= WARM_UP:
                values[kind].append(1e6 * seconds / plan.layers / len(prefixes))
    for kind, series in values.items():
        report.add_series(f"{rows} rows: {kind} (µs)", series, plan.rounds)
    for kind in TOLERANCE:
        report.ratio(f"{rows} rows: own / {kind}", f"{rows} rows: own (µs)", f"{rows} rows: {kind} (µs)")
