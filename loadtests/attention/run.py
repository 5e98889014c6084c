"""`kalmagrove bench attention`: full and √n attention beside each other, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kan.attention import PAGE_SIZE
from kan.kernels.memory import page_bytes
from kan.kernels.native import KernelsUnavailable, NativeKernels
from kan.kernels.operations import Kernels
from loadtests.attention.measure import LAYERS, Measured, Shape, crossing, exponent, measure
from loadtests.attention.partial import Partial
from loadtests.report import Report

log = logging.getLogger(__name__)

FULL, SQRT = "full", "sqrt"
NATIVE = ", native"
"""Behind either, what the compiled kernels took; torch's otherwise."""
LEAST = 4096
"""Exponents are fitted from this length on."""
FULL_CHUNK = 64
"""Rows of full attention by torch at once: more would take gigabytes, and no less time for each."""
FULL_SAMPLES = {"": 12, NATIVE: 6}
"""Chunks of full attention between two lengths that are computed, and stand for all: at even distances, and the last.
All of a prompt of 128 K tokens would take half an hour."""

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


def run(plan: AttentionPlan, progress: Progress, partial: Path | None = None) -> Report:
    """Takes minutes. Without compiled kernels torch's alone.

    `partial`: where what is measured is kept until the end; a run with the same plan goes on behind it. Raises
    ValueError for a file of another plan, or OSError.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    kinds: dict[str, tuple[str, Kernels | None]] = {}
    try:
        native = NativeKernels(plan.shape.config(FULL, plan.longest, 1, 0), torch.bfloat16)
        kinds = {SQRT + NATIVE: (SQRT, native), FULL + NATIVE: (FULL, native)}
    except KernelsUnavailable as reason:
        log.info("torch alone is measured; no native kernels: %s", reason)
    kinds = {SQRT: (SQRT, None), FULL: (FULL, None), **kinds}
    kept = Partial(partial, {"plan": asdict(plan), "kinds": list(kinds)})
    try:
        for name, (kind, kernels) in kinds.items():
            if name not in kept.found:
                kept.add(name, _measured(plan, name, kind, kernels, progress))
    finally:
        torch.set_num_threads(before)
    report = report_of(plan, kept.found)
    kept.remove()
    return report


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
    chunk = min(FULL_CHUNK, plan.shape.chunk) if kernels is None else plan.shape.chunk
    samples = FULL_SAMPLES["" if kernels is None else NATIVE]
    return measure(config, chunk, lengths, advance, samples, kernels=kernels, dtype=dtype)


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
        "prefill, sqrt": f"in chunks of {shape.chunk}, all computed",
        "prefill, full": f"in chunks of {FULL_CHUNK}, native {shape.chunk}; of those between two lengths "
        f"{FULL_SAMPLES['']}, native {FULL_SAMPLES[NATIVE]}, or more are computed and stand for all",
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
