"""`kalmagrove eval knowledge`, wired: the model, the journal, the progress bar, the report and its files."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cpu.threads import compute_alone
from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from lab.evaluation.cells import Cell
from lab.evaluation.evaluation import Watcher, evaluate
from lab.evaluation.journal import Journal
from lab.evaluation.plan import Files, Plan
from lab.evaluation.plot import write_plot
from lab.evaluation.report import Report, print_report, write_json
from lab.evaluation.smoke import Smoke, smoke
from lab.evaluation.subject import Advance, Subject
from server.loading import load_learned
from server.settings import Settings

PACKAGES = ("torch", "numpy", "faiss-cpu", "sentence-transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is evaluated: a checkpoint's directory, and a φ as in the setting KALMAGROVE_PHI."""

    model: Path
    phi: str

    def load(self) -> Subject:
        """Seconds. Raises CheckpointError, PhiError, GroundingError or ValueError."""
        compute_alone()
        encoder, checkpoint = MiniLMEncoder(), Checkpoint.open(self.model)
        learned, _ = load_learned(self.phi, checkpoint, encoder.model_fingerprint)
        return Subject.load(checkpoint, encoder, learned, self.phi)


def evaluate_knowledge(
    candidate: Candidate, plan: Plan, files: Files, command: Sequence[str], bar: Progress, console: Console
) -> None:
    """Measure, print the report and write what `files` wants. `command`: its words, for the report.

    Raises as `Candidate.load`, and LabError or OSError.
    """
    with bar:
        bar.add_task("loading the model", total=None)
        subject = candidate.load()
        head = describe(subject, plan)
        # Where the data lie here is nothing to anybody who reads the report elsewhere.
        words = ["DIR" if word == str(plan.data) else word for word in command]
        report = Report({"command": " ".join(["kalmagrove", *words]), **head})
        of_all = {name: value for name, value in head.items() if name not in ("phi", "phi_digest")}
        journal = Journal(files.journal, of_all, subject.learned.digest, resume=files.resume)
        # Gating is as a server started here would do it.
        asyncio.run(evaluate(plan, subject, Settings.model_validate({}), report, journal, _watcher(bar, files)))
    print_report(report, console)
    _write(report, files)


def describe(subject: Subject, plan: Plan) -> dict[str, object]:
    """What was measured, with what: the report's head, and what a journal must agree with.

    What may differ when a run is continued is left out: parts, conditions, numbers of distractors.
    """
    return {
        **{name: getattr(plan, name) for name in ("sets", "questions", "dev_questions", "seed", "max_tokens")},
        "model": subject.model.config.name,
        "model_fingerprint": subject.checkpoint.fingerprint,
        "kernels": subject.model.kernels.name,
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "phi": subject.phi_name,
        "phi_digest": subject.learned.digest,
        "encoder_fingerprint": subject.encoder.fingerprint,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def smoke_test(candidate: Candidate, seed: int) -> Smoke:
    """Half a minute. Raises as `Candidate.load`."""
    return asyncio.run(smoke(candidate.load(), seed))


def _watcher(bar: Progress, files: Files) -> Watcher:
    (task,) = bar.task_ids

    def begin(what: str, total: int) -> Advance:
        bar.reset(task, description=what, total=total)
        return lambda count: bar.advance(task, count)

    def tell(line: str) -> None:
        bar.console.print(line, highlight=False)

    def cell(done: Cell) -> None:
        right = done.right()
        name = f"{done.dataset:12} {done.condition:12} {done.distractors:3} distractors"
        tell(f"{name}  {100 * right.mean:5.1f} % of {right.n}  {done.seconds:6.1f} s")

    def changed(grown: Report) -> None:
        if files.json:
            write_json(grown, files.json)

    return Watcher(begin, tell, cell, changed)


def _write(report: Report, files: Files) -> None:
    if files.json:
        write_json(report, files.json)
    if files.plot:
        write_plot(report, files.plot)
    if files.grounding and report.grounding:
        report.grounding.save(files.grounding)
