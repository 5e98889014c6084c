"""What an evaluation is to measure, and where it writes: checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import PlanError
from lab.evaluation.conditions import CONDITIONS
from lab.evaluation.plot import require_matplotlib
from lab.questions.sources import DATASETS

PARTS = (
    "table",
    "edits",
    "counterfact",
    "locality",
    "grounding",
    "order",
    "retrieval",
    "turns",
    "served",
    "citations",
    "reading",
    "page_bits",
)
NEED_DATA = ("edits", "counterfact", "locality", "reading")
MAX_DISTRACTORS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure, and how much of it. PlanError if that cannot be done."""

    data: Path | None
    sets: tuple[str, ...]
    distractors: tuple[int, ...] = (0, 3, 7, 15)
    questions: int = 100
    dev_questions: int = 60
    parts: tuple[str, ...] = PARTS
    only: tuple[str, ...] = ()
    """Conditions of the table; empty: all."""
    seed: int = 1
    max_tokens: int = 24
    cases: Path | None = None
    """Where cases for `grounding` are kept and looked for; None: nowhere."""

    def __post_init__(self) -> None:
        _check_known(self.sets, DATASETS, "--sets")
        _check_known(self.parts, PARTS, "--parts")
        _check_known(self.only, CONDITIONS, "--conditions")
        if not all(0 <= count <= MAX_DISTRACTORS for count in self.distractors):
            raise PlanError(f"--distractors: 0 to {MAX_DISTRACTORS}")
        needing = [part for part in self.parts if part in NEED_DATA]
        if self.data is None and needing:
            raise PlanError(f"--data is needed for {', '.join(needing)} (or leave them out of --parts)")
        if self.data is not None and not self.data.is_dir():
            raise PlanError(f"--data: {self.data} is no directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a run leaves behind. PlanError or PlotError if that cannot be done."""

    json: Path | None = None
    """The report; finished cells are kept beside it."""
    plot: Path | None = None
    grounding: Path | None = None
    """The fitted grounding score."""
    resume: bool = False
    """Go on from the cells beside `json`."""

    def __post_init__(self) -> None:
        if self.resume and self.json is None:
            raise PlanError("--resume needs the --json of the run that is to go on")
        if self.plot:
            require_matplotlib()

    @property
    def journal(self) -> Path | None:
        """Where finished cells are kept."""
        return self.json.with_suffix(".partial.jsonl") if self.json else None


def _check_known(given: Sequence[str], known: Sequence[str], option: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise PlanError(f"{option}: {', '.join(unknown)} is unknown; there are {','.join(known)}")
