"""`kalmagrove eval left-out`: how a φ answers kinds of questions that it was not trained on.

A directory holds φs that were trained alike: `all` of every kind of questions, and one for each kind that was left out,
under that kind's name. Each set is asked of the φ of its kind, of the one of all kinds and of the shipped one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import Progress

from kan.knowledge.phi import Phi
from kb.encoder.minilm import MiniLMEncoder
from lab.errors import DataError
from lab.evaluation.conditions import Condition, Tuned, conditions, mounted
from lab.evaluation.journal import Journal
from lab.evaluation.material import Material
from lab.evaluation.plan import Plan
from lab.evaluation.report import Findings, Report, print_report, write_json
from lab.evaluation.run import Candidate, describe
from lab.evaluation.subject import Respondent, Setup, Subject
from lab.evaluation.table import Table
from lab.questions.sources import kind_of
from server.loading import load_learned

ALL = "all"
"""Name of the φ that was trained on every kind."""
PHI = "phi.safetensors"
JOURNAL = "answers.partial.jsonl"
SHIPPED_ROWS = ("prompt", "gap", "learned")
"""Rows that do without the φs of the directory."""
ALL_KINDS, LEFT_OUT = "all_kinds", "left_out"
COMPARED = (ALL_KINDS, "gap", "prompt", "learned")
"""What `left_out` is compared with."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of the table that one journal keeps, and the sets that they are measured on."""

    conditions: Sequence[Condition]
    sets: Sequence[str]
    journal: Journal


@dataclass(slots=True)
class _LeftOut:
    """What is measured, with what."""

    directory: Path
    plan: Plan
    subject: Subject
    encoder: str
    """Fingerprint of the encoder's model: a φ is of one."""
    bar: Progress
    head: dict[str, object] = field(init=False)

    def __post_init__(self) -> None:
        self.head = describe(self.subject, self.plan)

    def rows(self) -> Iterator[_Rows]:
        """Those of φs that were trained: of others there is nothing to measure yet."""
        shipped = [one for one in conditions(self.subject, Tuned()) if one.name in SHIPPED_ROWS]
        learned = self.subject.learned
        yield _Rows(shipped, self.plan.sets, self._journal(self.directory / JOURNAL, learned))
        for kind in (ALL, *dict.fromkeys(map(kind_of, self.plan.sets))):
            if not (self.directory / kind / PHI).is_file():
                self.bar.console.print(f"{kind}: not trained yet, left out", highlight=False)
                continue
            phi = self._phi(kind)
            name, meaning = (ALL_KINDS, "of all kinds") if kind == ALL else (LEFT_OUT, "without this kind")
            row = Condition(name, f"pages, short φ {meaning}", Setup(self.subject.model, phi), mounted, uses_phi=True)
            asked = [one for one in self.plan.sets if kind in (ALL, kind_of(one))]
            yield _Rows([row], asked, self._journal(self.directory / kind / JOURNAL, phi))

    def _phi(self, kind: str) -> Phi:
        path = self.directory / kind / PHI
        phi, _ = load_learned(str(path), self.subject.checkpoint, self.encoder)
        if phi is None:
            raise DataError(f"{path}: holds no φ")
        return phi

    def _journal(self, path: Path, phi: Phi) -> Journal:
        of_all = {name: value for name, value in self.head.items() if name not in ("sets", "phi", "phi_digest")}
        return Journal(path, of_all, phi.digest, resume=True)

    async def measure(self, report: Report) -> None:
        plan, subject = self.plan, self.subject
        material = Material(subject.encoder, plan.data, plan.seed)
        task = self.bar.add_task("asking", total=None)
        with TemporaryDirectory(prefix="kalmagrove-eval-") as name:
            respondent = Respondent(subject, Path(name) / "pages", plan.max_tokens)
            try:
                for rows in self.rows():
                    report.meanings |= {one.name: one.meaning for one in rows.conditions}
                    table = Table(rows.conditions, plan.distractors, plan.questions, material, respondent, rows.journal)
                    for dataset in rows.sets:
                        self.bar.update(
                            task, description=f"{dataset}: {', '.join(one.name for one in rows.conditions)}"
                        )
                        await table.measure(dataset, lambda count: self.bar.advance(task, count), report.cells.append)
            finally:
                await respondent.aclose()


def differences(report: Report) -> list[Findings]:
    """Of each set: the φ that has seen none of its kind against the others, question by question."""
    found = []
    for dataset in report.sets:
        one = Findings(f"{dataset}: the short φ without its kind")
        for other in COMPARED:
            for count in report.distractors:
                if (difference := report.difference(dataset, count, ours=LEFT_OUT, other=other)) is not None:
                    one.figures[f"- {report.meanings[other]}, {count} distractors"] = difference
        found.append(one)
    return [one for one in found if one.figures]


def evaluate_left_out(
    directory: Path,
    candidate: Candidate,
    plan: Plan,
    json: Path | None,
    command: Sequence[str],
    bar: Progress,
    console: Console,
) -> None:
    """Measure what `directory` does not hold yet, print the report and write it.

    Answers are kept beside each φ, so what was measured is not measured again. Raises as `evaluate_knowledge`.
    """
    started = time.perf_counter()
    with bar:
        subject = candidate.load()
        words = ["DIR" if word == str(plan.data) else word for word in command]
        report = Report({"command": " ".join(["kalmagrove", *words]), **describe(subject, plan)})
        asyncio.run(_LeftOut(directory, plan, subject, MiniLMEncoder().model_fingerprint, bar).measure(report))
    report.findings = differences(report)
    report.seconds = time.perf_counter() - started
    print_report(report, console)
    if json:
        write_json(report, json)
