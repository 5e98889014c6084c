"""How many threads torch and FAISS may use, thread by thread.

Exactly one thread of the process, the engine's, computes with every core. Every other thread computes alone. This is
not only fairness: as soon as a second OpenMP team exists, the runtime counts more threads than cores and stops
busy-waiting between parallel regions, which makes every decoding step half as slow again.
"""

from __future__ import annotations

import os


def compute_alone() -> None:
    """Bind the calling thread to one core's worth of threads. Call it before the thread's first computation."""
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def compute_with_all_cores() -> None:
    """The opposite, for the engine's thread."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
