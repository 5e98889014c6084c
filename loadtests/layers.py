"""What a linear layer that commutes with a group costs, beside the dense one that it stands for.

As a decode step reads them: a stack of layers in turn, so many that the dense weights do not stay in the cache. Every
round takes each kind once, one after the other; a value is one layer's CPU time on one thread, which other processes
disturb least.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from cpu.linear import Linear
from kan.kernels.operations import Product
from kan.symmetry.fourier import FourierLinear
from kan.symmetry.group import FiniteGroup, group_of
from kan.symmetry.linear import BlockedLinear, dense
from loadtests.report import Report
from loadtests.scenario import Progress

STACK_BYTES = 96 << 20
"""Of dense weights: three times a large processor's last cache."""
LEAST_LAYERS = 2
WARM_UP = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
"""Of outputs of deviation 1, against the dense product in float64."""


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """widths: inputs = outputs; rows: of one call, 1 is a decode step of one sequence; rounds: values per series;
    dtype: of `DTYPES`, or it is a ValueError."""

    group: str
    widths: Sequence[int]
    rows: Sequence[int]
    rounds: int
    seed: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}")


def run(plan: LayerPlan, progress: Progress) -> Report:
    """Raises ValueError for a group that there is not, or a width that is no multiple of its order."""
    group = group_of(plan.group)
    torch.set_num_threads(1)
    report = Report("layers", plan.group, f"{plan.dtype}, torch, one thread")
    cells = list(product(plan.widths, plan.rows))
    for done, (width, rows) in enumerate(cells):
        progress(f"width {width}, {rows} rows", done, len(cells))
        with torch.inference_mode():
            _measure(report, group, width, rows, plan)
    report.notes["method"] = (
        f"layers of {STACK_BYTES >> 20} MiB of dense weights in turn, kinds alternating; µs a layer"
    )
    return report


def _measure(report: Report, group: FiniteGroup, width: int, rows: int, plan: LayerPlan) -> None:
    if width % group.order:
        raise ValueError(f"width {width} is no multiple of |G| = {group.order}")
    generator = torch.Generator().manual_seed(plan.seed)
    dtype = DTYPES[plan.dtype]
    count = max(LEAST_LAYERS, STACK_BYTES // (dtype.itemsize * width * width))
    shape = (width // group.order, width)
    weights = [(torch.randn(shape, generator=generator) / width**0.5).to(dtype) for _ in range(count)]
    x = torch.randn(rows, width, generator=generator).to(dtype)
    stacks: dict[str, list[Product]] = {
        "dense": [Linear(dense(group, weight)) for weight in weights],
        "blocked": [BlockedLinear(group, Linear(weight)) for weight in weights],
        "transformed": [FourierLinear(group, weight) for weight in weights],
    }
    cell = f"width {width}, rows {rows}"
    _check(report, cell, stacks, x, x.double() @ dense(group, weights[0].double()).T, TOLERANCES[plan.dtype])
    for name, values in _alternating(stacks, x, plan.rounds).items():
        report.add_series(f"{cell}: {name} (µs)", values, plan.rounds)
    for name in ("blocked", "transformed"):
        report.ratio(f"{cell}: dense / {name}", f"{cell}: dense (µs)", f"{cell}: {name} (µs)")
    report.figures[f"{cell}: weights read by a layer, dense (MiB)"] = dtype.itemsize * width * width / 2**20
    report.figures[f"{cell}: weights read by a layer, compressed (MiB)"] = weights[0].nbytes / 2**20


def _check(
    report: Report, cell: str, stacks: dict[str, list[Product]], x: Tensor, expected: Tensor, tolerance: float
) -> None:
    """A fast wrong product is no evidence. `expected`: of the first layer, in float64."""
    for name, (first, *_) in stacks.items():
        error = float((first(x).double() - expected).abs().max())
        report.figures[f"{cell}: greatest error, {name}"] = error
        if not error < tolerance:
            report.failures.append(f"{cell}: {name} differs from the dense product by {error:.2g}")


def _alternating(stacks: dict[str, list[Product]], x: Tensor, rounds: int) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {name: [] for name in stacks}
    for done in range(WARM_UP + rounds):
        for name, stack in stacks.items():
            seconds = _seconds(stack, x)
            if done >= WARM_UP:
                values[name].append(1e6 * seconds / len(stack))
    return values


def _seconds(stack: Sequence[Product], x: Tensor) -> float:
    started = time.process_time()
    for layer in stack:
        layer(x)
    return time.process_time() - started
