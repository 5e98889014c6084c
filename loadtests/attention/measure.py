"""Attention alone, without a server: how time and memory of one layer grow with the context, by any pattern.

Keys, values and queries are noise, so every query chooses blocks of its own. That is the worst case for blocks that are
taken up once for all the queries that chose them, and changes nothing for full attention.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch

from kan.attention import PAGE_SIZE, Prefix, SequenceRows, pages_for
from kan.config import KANConfig
from kan.kernels.operations import Cache, Kernels
from kan.kernels.torch_kernels import TorchKernels
from loadtests.stats import median

LAYERS = 30
"""Of a model, as SmolLM2-135M has them: they share what a step makes ready, so a layer is charged so much less."""
DECODE_STEPS = 15

Progress = Callable[[int], None]
"""So many tokens more have been computed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured: one layer of these heads, prompts in chunks of so many rows; as of SmolLM2-135M."""

    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    chunk: int = 256

    def config(self, attention: str, longest: int, blocks: int, threshold: int) -> KANConfig:
        return KANConfig(
            name="noise", vocab_size=1, hidden_size=self.heads * self.head_dim, intermediate_size=16, num_layers=1,
            num_heads=self.heads, num_kv_heads=self.kv_heads, head_dim=self.head_dim,
            max_position_embeddings=longest, rope_theta=1e4, rms_norm_eps=1e-5, tie_word_embeddings=True,
            attention_bias=False, mlp_bias=False, bos_token_id=None, eos_token_ids=(), attention=attention,
            attention_blocks=blocks, attention_threshold=threshold,
        )  # fmt: skip


@dataclass(slots=True)
class Measured:
    """By length of the context: CPU seconds of a whole prompt, CPU seconds of the row after it, and how much more
    memory (bytes) the prompt's last chunk takes while it is computed, by its number of rows."""

    prefill: dict[int, float] = field(default_factory=dict)
    decode: dict[int, float] = field(default_factory=dict)
    bytes_per_row: dict[int, float] = field(default_factory=dict)


@torch.inference_mode()
def measure(
    config: KANConfig,
    chunk: int,
    lengths: Sequence[int],
    progress: Progress,
    samples: int | None = None,
    *,
    kernels: Kernels | None = None,
    dtype: torch.dtype = torch.float32,
) -> Measured:
    """One prompt of the greatest length: those of the smaller ones are its beginning, whatever the pattern.

    `samples`: of the chunks between two lengths so many are computed, at even distances, and stand for all. For full
    attention only, whose chunks need nothing of the others but keys and values. `kernels`: torch's if none are given.
    """
    found = Measured()
    generator = torch.Generator().manual_seed(1)
    cache = (kernels or TorchKernels()).new_cache(config, pages_for(max(lengths) + 1), dtype)
    _fill(cache, config, pages_for(max(lengths) + 1), generator, dtype)
    _step(cache, config, 0, 1, generator, dtype)  # what is done once for ever
    spent = 0.0
    for first, end in pairwise([0, *sorted(lengths)]):
        starts = range(first, end, chunk)
        apart = 1 if samples is None else max(1, len(starts) // samples)
        measured = sorted({*starts[::apart], starts[-1]})
        seconds = []
        for start in measured:
            if start == starts[-1]:
                before = _reset_peak()
            seconds.append(_step(cache, config, start, chunk, generator, dtype))
            progress((end - first) // len(measured))
        found.bytes_per_row[end] = max(0, _peak() - before) / chunk
        spent += len(starts) * sum(seconds) / len(seconds)
        found.prefill[end] = spent
        found.decode[end] = median([_step(cache, config, end, 1, generator, dtype) for _ in range(DECODE_STEPS)])
    return found


def _fill(cache: Cache, config: KANConfig, pages: int, generator: torch.Generator, dtype: torch.dtype) -> None:
    """Noise everywhere, a page after the other."""
    shape = (2, 1, PAGE_SIZE, config.num_kv_heads, config.head_dim)
    for page in range(pages):
        cache.write([page], *torch.randn(shape, generator=generator).to(dtype))


def exponent(seconds: dict[int, float], least: int) -> float:
    """p of the fit seconds ~ n^p over lengths from `least` on, by least squares of logarithms. ValueError for fewer
    than two lengths."""
    points = [(math.log(n), math.log(value)) for n, value in seconds.items() if n >= least]
    if len(points) < 2:
        raise ValueError(f"two lengths from {least} on are needed")
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def crossing(ours: dict[int, float], theirs: dict[int, float]) -> int | None:
    """The least measured length from which on ours took less time; None if not even at the greatest."""
    found = None
    for n in sorted(ours, reverse=True):
        if ours[n] >= theirs[n]:
            break
        found = n
    return found


def _step(
    cache: Cache, config: KANConfig, computed: int, count: int, generator: torch.Generator, dtype: torch.dtype
) -> float:
    """CPU seconds of one layer for these rows, with its share of what is made ready for all layers."""
    d = config.head_dim
    qkv = torch.randn(count, config.num_heads + 2 * config.num_kv_heads, d, generator=generator).to(dtype)
    cos, sin = torch.ones(count, 1, d), torch.zeros(count, 1, d)
    rows = SequenceRows(Prefix(), range(pages_for(computed + count)), computed, count)
    started = time.process_time()
    attention = cache.attention([rows])
    ready = time.process_time()
    attention(0, qkv, cos, sin)
    return (ready - started) / LAYERS + time.process_time() - ready


def _reset_peak() -> int:
    """Forget how much memory this process had at most; what it has now, in bytes. Linux, with the GNU C library."""
    ctypes.CDLL(None).malloc_trim(0)  # or else freed memory that it keeps would take up what the chunk needs
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
