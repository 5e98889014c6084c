"""`kalmagrove bench attention`: full and √n attention beside each other, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kan.attention import PAGE_SIZE
from kan.kernels.memory import page_bytes
from kan.kernels.native import KernelsUnavailable, NativeKernels
from kan.kernels.operations import Kernels
from loadtests.attention.measure import LAYERS, Measured, Shape, crossing, exponent, measure
from loadtests.report import Report

log = logging.getLogger(__name__)

FULL, SQRT = "full", "sqrt"
NATIVE = ", native"
"""Behind either, what the compiled kernels took; torch's otherwise."""
LEAST = 4096
"""Exponents are fitted from this length on."""
FULL_CHUNK = 64
"""Rows of full attention at once: more would take gigabytes, and no less time for each."""
FULL_SAMPLES = 12
"""Chunks of it between two lengths that are computed."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Lengths double from `shortest` to `longest`; all are multiples of the chunk. `blocks` and `threshold` are of √n
    attention; `threads` compute. ValueError for what cannot be measured."""

    shortest: int
    longest: int
    blocks: int
    threshold: int
    threads: int
    shape: Shape

    def __post_init__(self) -> None:
        if self.shortest % self.shape.chunk or self.longest < 2 * self.shortest:
            raise ValueError(f"lengths must double at least once, from a multiple of {self.shape.chunk} on")

    @property
    def lengths(self) -> list[int]:
        lengths = [self.shortest]
        while 2 * lengths[-1] <= self.longest:
            lengths.append(2 * lengths[-1])
        return lengths


def run(plan: AttentionPlan, progress: Progress) -> Report:
    """Takes minutes: full attention of the longest prompt is most of it. Without compiled kernels torch's alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    kinds: dict[str, tuple[str, Kernels | None]] = {}
    try:
        native = NativeKernels(plan.shape.config(FULL, plan.longest, 1, 0), torch.bfloat16)
        kinds = {SQRT + NATIVE: (SQRT, native), FULL + NATIVE: (FULL, native)}
    except KernelsUnavailable as reason:
        log.info("torch alone is measured; no native kernels: %s", reason)
    try:
        found = {
            name: _measured(plan, name, kind, kernels, progress)
            for name, (kind, kernels) in {SQRT: (SQRT, None), FULL: (FULL, None), **kinds}.items()
        }
    finally:
        torch.set_num_threads(before)
    return report_of(plan, found)


def _measured(plan: AttentionPlan, name: str, kind: str, kernels: Kernels | None, progress: Progress) -> Measured:
    lengths, done = plan.lengths, 0
    dtype = torch.float32 if kernels is None else torch.bfloat16

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(f"{name} attention", done, lengths[-1])

    config = plan.shape.config(kind, plan.longest + PAGE_SIZE, plan.blocks, plan.threshold)
    if kind == SQRT:
        return measure(config, plan.shape.chunk, lengths, advance, kernels=kernels, dtype=dtype)
    chunk = min(FULL_CHUNK, plan.shape.chunk)
    return measure(config, chunk, lengths, advance, FULL_SAMPLES, kernels=kernels, dtype=dtype)


def report_of(plan: AttentionPlan, found: dict[str, Measured]) -> Report:
    shape = plan.shape
    what = f"{shape.heads} heads, {shape.kv_heads} of keys, {shape.head_dim} wide"
    report = Report("attention", what, f"torch in float32, native in bfloat16, {plan.threads} thread(s)")
    for of in ("", NATIVE):
        if SQRT + of in found:
            full, ours = found[FULL + of], found[SQRT + of]
            _compare(report, "prefill", of, ours.prefill, full.prefill)
            _compare(report, "decode step", of, ours.decode, full.decode)
    for name, one in found.items():
        report.samples[f"working memory, {name} (KiB per row)"] = [b / 2**10 for b in one.bytes_per_row.values()]
    for kind in (FULL, SQRT):
        config = shape.config(kind, plan.longest, plan.blocks, plan.threshold)
        report.figures[f"cache, {kind} (bytes per token and layer)"] = page_bytes(config, torch.float32) / PAGE_SIZE
    report.samples["tokens"] = list(map(float, plan.lengths))
    report.notes = {
        "time": f"CPU seconds of one layer; what a step makes ready for all layers is charged by 1/{LAYERS}",
        "prefill, sqrt": f"in chunks of {shape.chunk}",
        "prefill, full": f"in chunks of {FULL_CHUNK}, {FULL_SAMPLES} or more computed between two lengths",
        "sqrt": f"k = {plan.blocks}, threshold {plan.threshold}",
    }
    return report


def _compare(report: Report, what: str, of: str, ours: dict[int, float], full: dict[int, float]) -> None:
    """Both by length, in seconds; `of` which kernels."""
    longest = max(full)
    for kind, seconds in ((SQRT + of, ours), (FULL + of, full)):
        report.samples[f"{what}, {kind} (ms)"] = [1000 * one for one in seconds.values()]
        if longest >= 2 * LEAST:
            report.figures[f"exponent, {what}, {kind}"] = exponent(seconds, LEAST)
    report.figures[f"full / sqrt, {what}{of}, {longest} tokens"] = full[longest] / ours[longest]
    if (first := crossing(ours, full)) is not None:
        report.figures[f"sqrt is faster from, {what}{of} (tokens)"] = first
