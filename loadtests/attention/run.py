"""`kalmagrove bench attention`: full and √n attention beside each other, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kan.attention import PAGE_SIZE
from kan.kernels.memory import page_bytes
from loadtests.attention.measure import LAYERS, Measured, Shape, crossing, exponent, measure
from loadtests.report import Report

FULL, SQRT = "full", "sqrt"
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
    """Takes minutes: full attention of the longest prompt is most of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        found = {kind: _measured(plan, kind, progress) for kind in (SQRT, FULL)}
    finally:
        torch.set_num_threads(before)
    return report_of(plan, found)


def _measured(plan: AttentionPlan, kind: str, progress: Progress) -> Measured:
    lengths, done = plan.lengths, 0

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(f"{kind} attention", done, lengths[-1])

    config = plan.shape.config(kind, plan.longest + PAGE_SIZE, plan.blocks, plan.threshold)
    if kind == SQRT:
        return measure(config, plan.shape.chunk, lengths, advance)
    return measure(config, min(FULL_CHUNK, plan.shape.chunk), lengths, advance, FULL_SAMPLES)


def report_of(plan: AttentionPlan, found: dict[str, Measured]) -> Report:
    shape = plan.shape
    what = f"{shape.heads} heads, {shape.kv_heads} of keys, {shape.head_dim} wide"
    report = Report("attention", what, f"torch kernels, {plan.threads} thread(s), float32")
    full, ours = found[FULL], found[SQRT]
    _compare(report, "prefill", ours.prefill, full.prefill)
    _compare(report, "decode step", ours.decode, full.decode)
    for kind, one in found.items():
        report.samples[f"working memory, {kind} (KiB per row)"] = [b / 2**10 for b in one.bytes_per_row.values()]
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


def _compare(report: Report, what: str, ours: dict[int, float], full: dict[int, float]) -> None:
    """Both by length, in seconds."""
    longest = max(full)
    for kind, seconds in ((SQRT, ours), (FULL, full)):
        report.samples[f"{what}, {kind} (ms)"] = [1000 * one for one in seconds.values()]
        if longest >= 2 * LEAST:
            report.figures[f"exponent, {what}, {kind}"] = exponent(seconds, LEAST)
    report.figures[f"full / sqrt, {what}, {longest} tokens"] = full[longest] / ours[longest]
    if (first := crossing(ours, full)) is not None:
        report.figures[f"sqrt is faster from, {what} (tokens)"] = first
