"""Sizes and bounds of the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from kan.kernels import KernelsName

DtypeName = Literal["auto", "bfloat16", "float32", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Every bound of the embedded engine. float64 is for tests of exactness."""

    dtype: DtypeName = "auto"
    kernels: KernelsName = "auto"
    """`native` refuses to start where the compiled kernels cannot be used; `auto` uses torch there."""
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

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            least = 0 if bound.name == "disk_reserve_bytes" else 1e-9
            if isinstance(value, int | float) and value < least:
                raise ValueError(f"{bound.name} must be above 0, not {value}")
        if self.busy_step_tokens <= self.max_running:
            raise ValueError(
                f"busy_step_tokens ({self.busy_step_tokens}) must exceed max_running ({self.max_running}): "
                "every step decodes all running requests and must have room for new work"
            )
