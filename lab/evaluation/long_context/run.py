"""`kalmagrove eval attention`: what √n attention costs in quality, beside full attention on the same texts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from kan.checkpoint.directory import Checkpoint
from kan.kernels import KernelsName
from kan.kernels.choice import choose_kernels
from kan.kernels.native import KernelsUnavailable
from kan.model import KANModel
from kan.tokenizer import Tokenizer
from lab.errors import PlanError
from lab.evaluation.long_context.reading import Advance, Reading, read
from lab.evaluation.long_context.texts import PROSE, RETRIEVAL, Text, retrievals, windows
from lab.evaluation.report import Findings, Report, print_report, write_json
from lab.evaluation.statistics import bootstrap

DENSE = "full attention"


@dataclass(frozen=True, slots=True)
class LongContextPlan:
    """PlanError for what the model cannot do.

    blocks      k of √n attention, each beside full attention
    documents   windows of each kind of `prose`
    retrievals  lists of 75 keys
    kernels     `native` compute in bfloat16, `torch` in float32
    """

    data: Path
    blocks: tuple[int, ...]
    threshold: int
    window: int
    documents: int
    retrievals: int
    kernels: KernelsName = "auto"
    prose: tuple[str, ...] = tuple(PROSE)

    def check(self, checkpoint: Checkpoint) -> None:
        if not self.data.is_dir():
            raise PlanError(f"--data: {self.data} is no directory")
        if self.window > checkpoint.config.max_position_embeddings:
            raise PlanError(f"--window: the model reads {checkpoint.config.max_position_embeddings} tokens at most")
        if unknown := sorted({*self.prose} - {*PROSE}):
            raise PlanError(f"--prose: {unknown[0]!r} is none of {', '.join(PROSE)}")
        if not self.blocks or min(self.blocks) < 1:
            raise PlanError("--blocks: at least 1 each")


def evaluate_attention(
    directory: Path, plan: LongContextPlan, json: Path | None, command: Sequence[str], bar: Progress, console: Console
) -> None:
    """Measure, print the report and write it to `json`. Raises CheckpointError, LabError or OSError."""
    started = time.perf_counter()
    with bar:
        bar.add_task("loading the model", total=None)
        checkpoint = Checkpoint.open(directory)
        plan.check(checkpoint)
        tokenizer = Tokenizer(checkpoint.tokenizer_path)
        model = _model(checkpoint, plan.kernels)
        words = ["DIR" if word == str(plan.data) else word for word in command]
        computed = f"{model.kernels.name}, {str(model.dtype).removeprefix('torch.')}"
        header = {"command": " ".join(["kalmagrove", *words]), "model": checkpoint.config.name, "computed": computed}
        report = Report({**header, "threshold": plan.threshold, "window": plan.window})
        for name, texts in _texts(plan, tokenizer).items():
            task = bar.add_task(name, total=_rows(plan, texts))
            readings = _readings(model, plan, texts, lambda tokens, task=task: bar.advance(task, tokens))  # type: ignore[misc]
            retrieving = name == "75 keys"
            report.findings.append(
                _retrieved(name, readings) if retrieving else _perplexities(name, readings, plan.threshold)
            )
    report.seconds = round(time.perf_counter() - started, 1)
    print_report(report, console)
    if json:
        write_json(report, json)


def _model(checkpoint: Checkpoint, name: KernelsName) -> KANModel:
    """PlanError if the native kernels were asked for and cannot be had."""
    try:
        kernels = choose_kernels(name, checkpoint.config, torch.float32 if name == "torch" else torch.bfloat16)
    except KernelsUnavailable as error:
        raise PlanError(f"--kernels: {error}") from None
    dtype = torch.bfloat16 if kernels.name == "native" else torch.float32
    return KANModel(checkpoint.config, checkpoint.tensors(), dtype=dtype, kernels=kernels)


def _texts(plan: LongContextPlan, tokenizer: Tokenizer) -> dict[str, list[Text]]:
    found = {}
    if plan.documents:
        for name in plan.prose:
            file = PROSE[name]
            found[name] = list(windows(plan.data / file, tokenizer, plan.documents, plan.window))
    if plan.retrievals:
        found["75 keys"] = list(retrievals(plan.data / RETRIEVAL, tokenizer, plan.retrievals))
    return found


def _rows(plan: LongContextPlan, texts: Sequence[Text]) -> int:
    """About how many are computed."""
    shared = [min(plan.threshold, len(text.tokens)) for text in texts]
    behind = [len(text.tokens) - before for text, before in zip(texts, shared, strict=True)]
    return sum(shared) + (1 + len(plan.blocks)) * sum(behind)


def _readings(
    model: KANModel, plan: LongContextPlan, texts: Sequence[Text], advance: Advance
) -> dict[str, list[Reading]]:
    """By the name of the attention."""
    kinds = {DENSE: None, **{f"k = {blocks}": blocks for blocks in plan.blocks}}
    each = [read(model, text.tokens, text.asked, list(kinds.values()), plan.threshold, advance) for text in texts]
    return dict(zip(kinds, map(list, zip(*each, strict=True)), strict=True))


def _perplexities(name: str, readings: dict[str, list[Reading]], threshold: int) -> Findings:
    """Over all tokens; and by how many per cent it is above that of full attention: over all, text by text, and over
    those tokens alone that rows behind the threshold predict."""
    texts = readings[DENSE]
    findings = Findings(f"perplexity: {name}, {len(texts)} windows of {len(texts[0].losses) + 1} tokens")
    for kind, each in readings.items():
        findings.figures[f"perplexity, {kind}"] = math.exp(_mean([one.loss for one in each]))
    for kind, each in readings.items():
        if kind != DENSE:
            apart = [one.loss - dense.loss for one, dense in zip(each, texts, strict=True)]
            for which, difference in (("", _mean(apart)), (", least", min(apart)), (", most", max(apart))):
                findings.figures[f"above {DENSE}, {kind}{which} (%)"] = 100 * math.expm1(difference)
            late = [
                float((one.losses - dense.losses)[threshold:].mean())
                for one, dense in zip(each, texts, strict=True)
                if len(one.losses) > threshold
            ]
            if late:
                findings.figures[f"above {DENSE}, {kind}, from token {threshold} on (%)"] = 100 * math.expm1(
                    _mean(late)
                )
    return findings


def _retrieved(name: str, readings: dict[str, list[Reading]]) -> Findings:
    """Values that greedy decoding gets right to the end, and how likely their tokens are."""
    findings = Findings(f"retrieval: {name}, {len(readings[DENSE])} lists")
    for kind, each in readings.items():
        findings.figures[f"exact, {kind}"] = bootstrap([float(one.exact) for one in each])
        findings.figures[f"tokens right, {kind}"] = bootstrap([float(one.likeliest.float().mean()) for one in each])
        findings.figures[f"nats per token of the value, {kind}"] = _mean([one.loss for one in each])
    return findings


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
