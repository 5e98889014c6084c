"""`kalmagrove eval scan`: one model, on the test parts of SCAN's splits, and with verbs that facts teach."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from kan.checkpoint.directory import Checkpoint
from kan.model import KANModel
from kan.prompt import PromptBuilder
from kan.symmetry.parameters import count
from lab.errors import PlanError
from lab.evaluation.report import Findings, Report, print_report, write_json
from lab.evaluation.scan.exact import drawn_commands, exact, taught_samples
from lab.evaluation.statistics import bootstrap
from lab.questions.scan_words import NEW_VERBS, tokenizer_json
from lab.training.lm.scan import ScanSamples

HELD_OUT = NEW_VERBS[-1]


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """questions: commands of each split's test part, 0 for all; taught: ask again with verbs that facts teach."""

    splits: tuple[str, ...]
    questions: int
    taught: bool
    seed: int


class Subject:
    """A checkpoint, ready to be asked. Raises PlanError if it does not have SCAN's vocabulary."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.tokenizer_path.read_text("utf-8") != tokenizer_json():
            raise PlanError(f"{checkpoint.config.name} does not have the vocabulary of `kalmagrove train lm`")
        self.checkpoint = checkpoint
        self.model = KANModel(checkpoint.config, checkpoint.tensors(), dtype=torch.float32)
        prompt = PromptBuilder.from_checkpoint(checkpoint)
        self.samples = ScanSamples((), prompt, checkpoint.config.eos_token_ids[0], share=0.0, seed=0)


def evaluate_scan(
    directory: Path, plan: ScanPlan, json: Path | None, command: Sequence[str], bar: Progress, console: Console
) -> None:
    """Measure, print the report and write it to `json`. Raises CheckpointError, LabError or OSError."""
    started = time.perf_counter()
    with bar:
        bar.add_task("loading the model", total=None)
        subject = Subject(Checkpoint.open(directory))
        config = subject.checkpoint.config
        header = {"command": " ".join(["kalmagrove", *command]), "model": config.name, "dtype": "float32"}
        report = Report({**header, "fingerprint": subject.checkpoint.fingerprint, "parameters": count(config).free})
        for split in plan.splits:
            report.findings.append(_of_split(subject, plan, split, bar))
    report.seconds = round(time.perf_counter() - started, 1)
    print_report(report, console)
    if json:
        write_json(report, json)


def _of_split(subject: Subject, plan: ScanPlan, split: str, bar: Progress) -> Findings:
    commands = drawn_commands(split, plan.questions, plan.seed)
    task = bar.add_task(split, total=len(commands) * (1 + plan.taught))
    preamble = subject.samples.preamble

    def advance(done: int) -> None:
        bar.advance(task, done)

    right = exact(subject.model, [subject.samples.plain(one) for one in commands], preamble, advance)
    findings = Findings(f"SCAN, {split}: exact match", {"test part": bootstrap(list(map(float, right)))})
    if plan.taught:
        samples = taught_samples(subject.samples, commands, plan.seed)
        right = exact(subject.model, samples, preamble, advance)
        (held_out,) = subject.samples.prompt.tokenizer.encode(f" {HELD_OUT}")
        new = [held_out in one.prompt for one in samples]
        for name, which in (("", False), (f", a verb never trained ({HELD_OUT}) among them", True)):
            chosen = [float(one) for one, has_it in zip(right, new, strict=True) if has_it is which]
            if chosen:
                findings.figures[f"verbs taught by facts{name}"] = bootstrap(chosen)
    return findings
