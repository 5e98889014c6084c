"""What an evaluation found, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kan.knowledge.grounding import Grounding
from lab.evaluation.cells import Cell
from lab.evaluation.conditions import Tuned
from lab.evaluation.statistics import Bin, Estimate

Figure = Estimate | float


@dataclass(slots=True)
class Findings:
    """One of the further evaluations: named figures, and what else a reader of the JSON may want."""

    title: str
    figures: dict[str, Figure] = field(default_factory=dict)
    bins: list[Bin] = field(default_factory=list)
    """Reliability, where something was predicted."""
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """One run."""

    header: dict[str, object]
    tuned: Tuned | None = None
    meanings: dict[str, str] = field(default_factory=dict)
    """Condition -> its description, in the order of the table."""
    cells: list[Cell] = field(default_factory=list)
    findings: list[Findings] = field(default_factory=list)
    grounding: Grounding | None = None
    """As fitted on the dev split."""
    seconds: float = 0.0

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(cell.dataset for cell in self.cells))

    @property
    def distractors(self) -> list[int]:
        return sorted({cell.distractors for cell in self.cells})

    def cell(self, dataset: str, condition: str, distractors: int) -> Cell | None:
        """The cell, or the one that stands for every number of distractors."""
        found = [cell for cell in self.cells if (cell.dataset, cell.condition) == (dataset, condition)]
        exact = [cell for cell in found if cell.distractors == distractors]
        return exact[0] if exact else found[0] if len(found) == 1 else None

    def difference(
        self, dataset: str, distractors: int, ours: str = "learned", other: str = "prompt"
    ) -> Estimate | None:
        """Paired difference of two conditions, where both were measured."""
        a, b = self.cell(dataset, ours, distractors), self.cell(dataset, other, distractors)
        return a.above(b) if a and b else None

    def of_ceiling(self, dataset: str, distractors: int) -> float | None:
        """Share right with learned φ over the share right with the gold fact alone; None where that is 0."""
        learned, ceiling = self.cell(dataset, "learned", distractors), self.cell(dataset, "ceiling", distractors)
        if learned is None or ceiling is None or not ceiling.right().mean:
            return None
        return learned.right().mean / ceiling.right().mean

    def to_json(self) -> dict[str, object]:
        return {
            **self.header,
            "seconds": round(self.seconds, 1),
            "tuned": asdict(self.tuned) if self.tuned else None,
            "conditions": self.meanings,
            "cells": [self._cell_json(cell) for cell in self.cells],
            "learned_of_ceiling": {
                dataset: {str(count): _short(self.of_ceiling(dataset, count)) for count in self.distractors}
                for dataset in self.sets
            },
            "findings": {one.title: _findings_json(one) for one in self.findings},
            "grounding": asdict(self.grounding) if self.grounding else None,
        }

    def _cell_json(self, cell: Cell) -> dict[str, object]:
        numeric = cell.numeric()
        prompt = self.cell(cell.dataset, "prompt", cell.distractors)
        compared = prompt is not None and prompt is not cell
        return {
            "set": cell.dataset,
            "condition": cell.condition,
            "distractors": cell.distractors,
            "contains": _rounded(cell.right()),
            "exact_match": _rounded(cell.exact()),
            "numeric": _rounded(numeric) if numeric else None,
            "above_prompt": _rounded(cell.above(prompt)) if compared and prompt else None,
            "seconds": cell.seconds,
        }


def write_json(report: Report, path: Path) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def print_report(report: Report, console: Console) -> None:
    for dataset in report.sets:
        console.print(_set_table(report, dataset))
    if any(cell.numeric() for cell in report.cells):
        console.print(_numeric_table(report))
    for findings in report.findings:
        console.print(_findings_table(findings))


def _set_table(report: Report, dataset: str) -> Table:
    n = max(len(cell.outcomes) for cell in report.cells if cell.dataset == dataset)
    title = f"{dataset}: answer contains gold, % [95 % interval], = exact match, by distractors (n={n})"
    table = _table(title, ["condition", *map(str, report.distractors)])
    for condition, meaning in report.meanings.items():
        cells = [report.cell(dataset, condition, count) for count in report.distractors]
        if any(cells):
            shown = [f"{_percent(c.right())} ={100 * c.exact().mean:.0f}" if c else "–" for c in cells]
            table.add_row(meaning, *shown)
    for other in ("prompt", "kblam", "scaled"):
        differences = [report.difference(dataset, count, other=other) for count in report.distractors]
        if any(differences):
            table.add_row(f"[bold]learned - {other}[/]", *(_percent(d, "+") if d else "–" for d in differences))
    ratios = [report.of_ceiling(dataset, count) for count in report.distractors]
    if any(ratios):
        table.add_row("[bold]learned / gold alone[/]", *("–" if one is None else f"{one:.0%}" for one in ratios))
    return table


def _numeric_table(report: Report) -> Table:
    table = _table("numbers and identifiers: exactly right, %", ["set", "condition", *map(str, report.distractors)])
    for dataset in report.sets:
        for condition, meaning in report.meanings.items():
            cells = [report.cell(dataset, condition, count) for count in report.distractors]
            values = [cell.numeric() if cell else None for cell in cells]
            if any(values):
                table.add_row(dataset, meaning, *(_percent(value) if value else "–" for value in values))
    return table


def _findings_table(findings: Findings) -> Table:
    table = _table(findings.title, ["figure", "value"])
    for name, figure in findings.figures.items():
        table.add_row(name, f"{_percent(figure)} n={figure.n}" if isinstance(figure, Estimate) else f"{figure:.4g}")
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column.isdigit() or column == "value" else "left", no_wrap=True)
    return table


def _percent(estimate: Estimate, sign: str = "") -> str:
    mean, low, high = (100 * value for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:{sign}.0f} \\[{low:{sign}.0f}, {high:{sign}.0f}]"


def _rounded(estimate: Estimate) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(estimate).items()}


def _short(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 4)


def _findings_json(findings: Findings) -> Mapping[str, object]:
    figures = {k: _rounded(v) if isinstance(v, Estimate) else v for k, v in findings.figures.items()}
    return {**figures, "reliability": [asdict(one) for one in findings.bins], "examples": findings.examples}
