"""Sizes and bounds of the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from kan.config import KANConfig
from kan.kernels import KernelsName
from kan.patterns import SqrtBlocks, pattern_of

AttentionName = Literal["auto", "full", "sqrt"]
PageBits = Literal[4, 8, 16]
DtypeName = Literal["auto", "bfloat16", "float32", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Every bound of the embedded engine. float64 is for tests of exactness."""

    dtype: DtypeName = "auto"
    kernels: KernelsName = "auto"
    """`native` refuses to start where the compiled kernels cannot be used; `auto` uses torch there."""
    attention: AttentionName = "auto"
    """Another pattern than the model's own; with `attention_blocks` and `attention_threshold` where they are given."""
    attention_blocks: int | None = None
    attention_threshold: int | None = None
    page_bits: PageBits = 16
    """Of the numbers in facts' pages: 8 or 4, or 16 for the model's own, whatever they are. Contexts are always in the
    latter."""
    pages: int = 4096
    """KV pages (of `PAGE_SIZE` tokens), shared by contexts and knowledge."""
    page_dir: Path | None = None
    """Where page content is kept across restarts; None keeps it in memory only."""
    disk_bytes: int = 8 << 30
    disk_reserve_bytes: int = 0
    """Free disk that page content leaves alone; 0: it may take all."""
    max_running: int = 32
    max_fact_tokens: int = 256
    """Longest fact. Pages for one such fact are kept clear of generations, so that an edit never waits for them."""
    step_tokens: int = 256
    """Most rows in one forward pass while nobody is decoding."""
    busy_step_tokens: int = 80
    """The same while streams are decoding: bounds the pause between two of their tokens."""
    stall_seconds: float = 30.0
    """A step longer than this means the engine hangs (`healthy` turns false)."""
    close_seconds: float = 10.0
    """How long closing waits for the step that is running."""

    def configured(self, config: KANConfig) -> KANConfig:
        """The model's configuration with this attention. Raises ValueError for what does not go together."""
        attention = config.attention if self.attention == "auto" else self.attention
        blocks, threshold = self.attention_blocks, self.attention_threshold
        if attention == "full" and (blocks is not None or threshold is not None):
            raise ValueError("attention_blocks and attention_threshold are of sqrt attention, and this is full")
        chosen = replace(
            config,
            attention=attention,
            attention_blocks=config.attention_blocks if blocks is None else blocks,
            attention_threshold=config.attention_threshold if threshold is None else threshold,
        )
        pattern = pattern_of(chosen)
        if isinstance(pattern, SqrtBlocks) and self.max_fact_tokens > pattern.first_routed:
            raise ValueError(
                f"max_fact_tokens: facts of {self.max_fact_tokens} tokens would be longer than what sqrt attention "
                f"sees whole ({pattern.first_routed} tokens), and their pages would depend on it"
            )
        return chosen

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            least = 0 if bound.name in ("disk_reserve_bytes", "attention_threshold") else 1e-9
            if isinstance(value, int | float) and value < least:
                raise ValueError(f"{bound.name} must be above 0, not {value}")
        if self.busy_step_tokens <= self.max_running:
            raise ValueError(
                f"busy_step_tokens ({self.busy_step_tokens}) must exceed max_running ({self.max_running}): "
                "every step decodes all running requests and must have room for new work"
            )
