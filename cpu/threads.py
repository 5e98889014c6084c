"""How many threads torch and FAISS may use, thread by thread, and how they wait for each other.

Exactly one thread of the process, the engine's, computes with every core. Every other thread computes alone. This is
not only fairness: as soon as a second OpenMP team exists, the runtime counts more threads than cores and stops
busy-waiting between parallel regions, which makes every decoding step half as slow again.
"""

from __future__ import annotations

import math
import os
import time

from cpu.cores import effective_cores

RECHECK_SECONDS = 1.0
SPIN_COUNT = 10_000
"""Of libgomp, which by itself spins for 300 000."""


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon where they wait for one that is not running, as another process has its core.

    Call it before torch is imported: libgomp reads its settings once. What the environment says goes first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def compute_alone() -> None:
    """Bind the calling thread to one core's worth of threads. Call it before the thread's first computation."""
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


class AllCores:
    """The opposite, for the engine's thread: as many threads as the process has cores, also when that changes."""

    def __init__(self) -> None:
        self._cores = 0
        self._check_at = -math.inf

    def follow(self) -> None:
        """Call it on the engine's own thread, before every step. It looks once in RECHECK_SECONDS."""
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + RECHECK_SECONDS
            self._use(effective_cores())

    def _use(self, cores: int) -> None:
        import torch

        if cores != self._cores:
            torch.set_num_threads(cores)
            self._cores = cores
