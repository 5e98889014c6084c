"""vLLM's own numbers, as far as our metrics show them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Load:
    """Of one engine core, after its last step."""

    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0
    """Share of KV blocks in use, in [0, 1]."""


@dataclass(slots=True)
class ForwardProgress:
    """What vLLM tells after every step, of all its engine cores. Kept over restarts."""

    loads: dict[int, Load] = field(default_factory=dict)
    preemptions: int = 0
    steps: int = 0
    last: float = field(default_factory=time.monotonic)
    """When something was last heard, on time.monotonic()'s clock."""

    def record(self, core: int, scheduler: Any, iteration: Any) -> None:
        """One step of one engine core; either part may be missing."""
        self.last = time.monotonic()
        self.steps += 1
        if scheduler is not None:
            self.loads[core] = Load(
                scheduler.num_running_reqs, scheduler.num_waiting_reqs, float(scheduler.kv_cache_usage)
            )
        if iteration is not None:
            self.preemptions += iteration.num_preempted_reqs

    def forget_loads(self) -> None:
        """The engine cores are gone."""
        self.loads.clear()


def stat_logger(progress: ForwardProgress) -> Any:
    """A factory of vLLM's stat loggers that writes into `progress`."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class ProgressLogger(StatLoggerBase):  # type: ignore[misc]
        """vLLM makes one per engine core."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            self._core = engine_index

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            """After every step."""
            progress.record(self._core, scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            """Nothing to tell."""

    return ProgressLogger
