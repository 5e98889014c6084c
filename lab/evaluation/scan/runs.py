"""`kalmagrove eval scan-runs`: every run of `kalmagrove train lm` below a directory, by model and split.

Runs that the report knew already and that are not below the directory stay in it: a study may take several machines.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from lab.evaluation.scan.stored import TARGET_LOSS, ScanRun, configuration_of, merged, read_runs, write_runs
from lab.evaluation.statistics import bootstrap
from lab.training.lm.configuration import LMPlan, read_plan_json
from lab.training.lm.curve import read_csv
from lab.training.lm.run import PLAN, TABLE
from lab.training.points import Point


def evaluate_runs(
    directory: Path, questions: int, report: Path | None, plot: Path | None, bar: Progress, console: Console
) -> None:
    """Measure, add what `report` knows of other runs, print the table, write it and draw it.

    Raises DataError, CheckpointError, PlotError or OSError.
    """
    plans = sorted(path.parent for path in directory.rglob(PLAN))
    known = read_runs(report) if report else []
    if not plans and not known:
        raise DataError(f"{directory}: holds no run of `kalmagrove train lm`")
    with bar:
        task = bar.add_task("asking", total=len(plans))
        measured = []
        for path in plans:
            plan = read_plan_json(path / PLAN)
            if (path / f"{plan.name}.md").is_file():
                measured.append(_measured(path, plan, questions))
            bar.advance(task)
    unfinished = len(plans) - len(measured)
    runs, stale = merged(measured, known)
    console.print(_table(runs))
    if unfinished:
        console.print(f"{unfinished} unfinished runs are left out")
    if kept := len(runs) - len(measured):
        console.print(f"{kept} of these stood in {report} and were not measured again")
    if stale:
        names = ", ".join("/".join(map(str, run.key)) for run in stale)
        console.print(f"left out of what stood in {report}, being of another configuration: {names}")
    if report:
        write_runs(runs, unfinished, report)
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
        curve=[(point.step, float(f"{point.loss:.4g}")) for point in curve],
        configuration=configuration_of(plan),
    )


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
