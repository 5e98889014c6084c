"""`kalmagrove eval scan-runs`: every run of `kalmagrove train lm` below a directory, by model and split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kan.checkpoint.directory import Checkpoint
from kan.symmetry.parameters import count
from lab.errors import DataError
from lab.evaluation.scan.exact import drawn_commands, exact
from lab.evaluation.scan.plot import draw_runs
from lab.evaluation.scan.run import Subject
from lab.evaluation.statistics import Estimate, bootstrap
from lab.training.lm.configuration import LMPlan, read_plan_json
from lab.training.lm.curve import read_csv
from lab.training.lm.run import PLAN, TABLE
from lab.training.points import Point

TARGET_LOSS = 0.05
"""Nats per token of a reply, on the fixed sample of the training part: how fast a model gets there is compared."""


@dataclass(frozen=True, slots=True)
class ScanRun:
    """One that ended.

    parameters      free ones, that is those of the checkpoint
    exact           share of the split's test part that greedy decoding gets right
    to_target       the first step at which the loss of the fixed sample was at most TARGET_LOSS; None: never
    """

    model: str
    split: str
    seed: int
    steps: int
    parameters: int
    exact: Estimate
    to_target: int | None
    curve: Sequence[Point]


def evaluate_runs(
    directory: Path, questions: int, report: Path | None, plot: Path | None, bar: Progress, console: Console
) -> None:
    """Measure, print the table, write it and draw it. Raises DataError, CheckpointError, PlotError or OSError."""
    plans = sorted(path.parent for path in directory.rglob(PLAN))
    if not plans:
        raise DataError(f"{directory}: holds no run of `kalmagrove train lm`")
    with bar:
        task = bar.add_task("asking", total=len(plans))
        runs = []
        for path in plans:
            plan = read_plan_json(path / PLAN)
            if (path / f"{plan.name}.md").is_file():
                runs.append(_measured(path, plan, questions))
            bar.advance(task)
    unfinished = len(plans) - len(runs)
    console.print(_table(runs))
    if unfinished:
        console.print(f"{unfinished} unfinished runs are left out")
    if report:
        found = {"target_loss": TARGET_LOSS, "unfinished": unfinished, "runs": [_json(run) for run in runs]}
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    if plot:
        draw_runs(runs, plot)


def first_at(curve: Sequence[Point], loss: float) -> int | None:
    """The first step that was measured to have this loss or less."""
    return next((point.step for point in curve if point.loss <= loss), None)


def _measured(path: Path, plan: LMPlan, questions: int) -> ScanRun:
    subject = Subject(Checkpoint.open(path / plan.name))
    samples = [subject.samples.plain(one) for one in drawn_commands(plan.task.split, questions, seed=0)]
    right = exact(subject.model, samples, subject.samples.preamble, lambda done: None)
    curve = read_csv(path / TABLE)
    return ScanRun(
        model=plan.name,
        split=plan.task.split,
        seed=plan.training.seed,
        steps=plan.training.steps,
        parameters=count(subject.checkpoint.config).free,
        exact=bootstrap(list(map(float, right))),
        to_target=first_at(curve, TARGET_LOSS),
        curve=curve,
    )


def _json(run: ScanRun) -> dict[str, object]:
    found = {name: value for name, value in asdict(run).items() if name != "curve"}
    return {**found, "curve": [[point.step, point.loss, point.exact] for point in run.curve]}


def _table(runs: Sequence[ScanRun]) -> Table:
    table = Table(title="SCAN: exact match of single runs, by seed, %", title_justify="left")
    for column in ("split", "model", "parameters", "exact", f"steps to loss {TARGET_LOSS}"):
        table.add_column(column)
    for split, model in dict.fromkeys((run.split, run.model) for run in runs):
        found = [run for run in runs if (run.split, run.model) == (split, model)]
        exacts = ", ".join(f"{100 * run.exact.mean:.1f}" for run in found)
        reached = ", ".join("never" if run.to_target is None else str(run.to_target) for run in found)
        table.add_row(split, model, f"{found[0].parameters:,}", exacts, reached)
    return table
