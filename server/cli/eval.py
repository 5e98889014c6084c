"""`kalmagrove eval`: does mounted knowledge answer, compared with the same facts in the prompt?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.console import FAILED, USAGE, CommandError, fail, messages, output, progress_bar
from server.cli.options import DataDir

if TYPE_CHECKING:
    from rich.progress import Progress

    from lab.evaluation.cells import Cell
    from lab.evaluation.evaluation import Plan, Watcher
    from lab.evaluation.report import Report
    from lab.evaluation.subject import Advance, Subject

app = typer.Typer(help="Evaluate knowledge: what it adds, and what it must leave alone.", no_args_is_help=True)

ALL_SETS = "synthetic,factbook,counterfact,squad,two_fact"
ALL_CONDITIONS = "none,prompt,zero,ceiling,kblam,scaled,gap,splines,learned,ceiling_phi,oracle"
ALL_PARTS = "table,edits,counterfact,locality,grounding,order"


@app.callback()
def _group() -> None:
    """So that `knowledge` stays a command of its own name."""


@app.command()
def knowledge(
    data: Annotated[Path | None, typer.Option("--data", help="Directory of the question sets' files.")] = None,
    phi: Annotated[
        str, typer.Option(help="The φ to evaluate: a file, auto (as served by default), gap or none.")
    ] = "auto",
    sets: Annotated[str, typer.Option(help="Question sets of the table.")] = ALL_SETS,
    distractors: Annotated[str, typer.Option(help="Wrong facts mounted beside the right one.")] = "0,3,7,15",
    questions: Annotated[int, typer.Option(min=1, max=10_000, help="Questions per cell.")] = 100,
    dev_questions: Annotated[
        int, typer.Option(min=0, max=10_000, help="Questions that the baselines' constants are tuned on; 0: not tuned.")
    ] = 60,
    parts: Annotated[str, typer.Option(help="What to evaluate.")] = ALL_PARTS,
    conditions: Annotated[str, typer.Option(help="Rows of the table, by name; default: all.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Longest reply.")] = 24,
    seed: Annotated[int, typer.Option(help="Of questions, distractors and intervals.")] = 1,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the report here, and finished cells beside it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the report as a PNG.")] = None,
    grounding: Annotated[
        Path | None, typer.Option("--grounding", help="Write the fitted grounding score here.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the cells beside --json; those of another φ are measured anew.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Half a minute: fails unless φ beats no φ. Needs no data.")
    ] = False,
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """Ask held-out questions of the real engine, with the same facts given in different ways.

    Greedy replies; a reply is right if it contains the answer. Every figure comes with a 95 % bootstrap interval.
    """
    from lab.evaluation.evaluation import Plan

    with _failures():
        if smoke:
            _smoke(_subject(data_dir, model, phi), seed)
            return
        plan = Plan(
            data=data,
            sets=_names(sets, ALL_SETS, "--sets"),
            distractors=_counts(distractors),
            questions=questions,
            dev_questions=dev_questions,
            parts=_names(parts, ALL_PARTS, "--parts"),
            only=_names(conditions, ALL_CONDITIONS, "--conditions"),
            seed=seed,
            max_tokens=max_tokens,
        )
        _check(plan, json, plot, resume)
        report = _run(plan, _subject(data_dir, model, phi), json, plot, resume)
        if grounding and report.grounding:
            report.grounding.save(grounding)


def _run(plan: Plan, subject: Subject, json: Path | None, plot: Path | None, resume: bool) -> Report:
    from dataclasses import replace

    from lab.evaluation.cells import Journal
    from lab.evaluation.evaluation import evaluate
    from lab.evaluation.plot import write_plot
    from lab.evaluation.report import Report, describe, print_report, write_json
    from server.settings import Settings

    environment: dict[str, Any] = {}
    settings = Settings(**environment)  # gating as a server started here would do it
    # What may differ when a run is continued is left out: parts, conditions, numbers of distractors.
    options = {name: getattr(plan, name) for name in ("sets", "questions", "dev_questions", "seed", "max_tokens")}
    head = describe(subject, **options)
    of_all = {name: value for name, value in head.items() if name not in ("phi", "phi_digest")}
    partial = json.with_suffix(".partial.jsonl") if json else None
    journal = Journal(partial, of_all, subject.learned.digest, resume=resume)
    # Where the data lie here is nothing to anybody who reads the report elsewhere.
    words = ["DIR" if word == str(plan.data) else word for word in sys.argv[1:]]
    report = Report({"command": " ".join(["kalmagrove", *words]), **head})
    with progress_bar() as bar:
        watcher = _watcher(bar)
        if json:
            watcher = replace(watcher, changed=lambda grown: write_json(grown, json))
        asyncio.run(evaluate(plan, subject, settings, report, journal, watcher))
    print_report(report, output())
    if json:
        write_json(report, json)
    if plot:
        write_plot(report, plot)
    return report


def _smoke(subject: Subject, seed: int) -> None:
    from lab.evaluation.smoke import smoke

    found = asyncio.run(smoke(subject, seed))
    output().print(found.text, highlight=False)
    if not found.passed:
        raise typer.Exit(FAILED)


def _subject(data_dir: Path, model: str, phi: str) -> Subject:
    from kan.checkpoint.directory import Checkpoint
    from kb.encoder.minilm import MiniLMEncoder
    from lab.evaluation.subject import Subject
    from server.loading import load_learned
    from server.threads import compute_alone

    compute_alone()
    with messages().status("Loading the model …"):
        named = data_dir / "models" / model
        directory = named if named.is_dir() else Path(model)
        encoder = MiniLMEncoder()
        checkpoint = Checkpoint.open(directory)
        learned, _ = load_learned(phi, checkpoint, encoder.model_fingerprint)
        return Subject.load(checkpoint, encoder, learned, phi)


def _watcher(bar: Progress) -> Watcher:
    from lab.evaluation.evaluation import Watcher

    task = bar.add_task("starting", total=None)

    def begin(what: str, total: int) -> Advance:
        bar.reset(task, description=what, total=total)
        return lambda count: bar.advance(task, count)

    def tell(line: str) -> None:
        bar.console.print(line, highlight=False)

    def cell(done: Cell) -> None:
        right = done.right()
        name = f"{done.dataset:12} {done.condition:12} {done.distractors:3} distractors"
        tell(f"{name}  {100 * right.mean:5.1f} % of {right.n}  {done.seconds:6.1f} s")

    return Watcher(begin, tell, cell, lambda _: None)


def _check(plan: Plan, json: Path | None, plot: Path | None, resume: bool) -> None:
    """Whatever would fail after the measurements fails before them."""
    from lab.evaluation.evaluation import NEED_DATA
    from lab.evaluation.plot import require_matplotlib

    if plan.data is None and (needing := [part for part in plan.parts if part in NEED_DATA]):
        raise CommandError(f"--data is needed for {', '.join(needing)} (or leave them out of --parts)", USAGE)
    if plan.data is not None and not plan.data.is_dir():
        raise CommandError(f"--data: {plan.data} is no directory", USAGE)
    if resume and json is None:
        raise CommandError("--resume needs the --json of the run that is to go on", USAGE)
    if plot:
        require_matplotlib()


def _names(given: str, known: str, option: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    unknown = [name for name in names if name not in known.split(",")]
    if unknown:
        raise CommandError(f"{option}: {', '.join(unknown)} is unknown; there are {known}", USAGE)
    return names


def _counts(given: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(count) for count in given.split(",")}))
    except ValueError:
        raise CommandError(f"--distractors: {given!r} is no list of numbers", USAGE) from None
    if counts[0] < 0 or counts[-1] > 63:
        raise CommandError("--distractors: 0 to 63", USAGE)
    return counts


@contextmanager
def _failures() -> Iterator[None]:
    from kan.checkpoint.directory import CheckpointError
    from kan.knowledge.grounding import GroundingError
    from kan.knowledge.phi import PhiError
    from lab.evaluation.cells import ResumeError
    from lab.evaluation.plot import PlotError
    from lab.questions.rows import DataError

    try:
        yield
    except CommandError as error:
        fail(error)
    except (CheckpointError, PhiError, GroundingError, DataError, ResumeError, PlotError, OSError, ValueError) as error:
        fail(CommandError(str(error)))
