"""What is known of single runs, as a file of JSON that a later evaluation adds to, on another machine perhaps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kan.knowledge.pages import write_whole
from lab.errors import DataError
from lab.evaluation.statistics import Estimate
from lab.training.lm.configuration import LMPlan

TARGET_LOSS = 0.05
"""Nats per token of a reply, on the fixed sample of the training part: how fast a model gets there is compared."""


@dataclass(frozen=True, slots=True)
class ScanRun:
    """One that ended.

    configuration   of all that was trained by, but split and seed: runs of one model are comparable if it is the same;
                    None for a run that was stored before this was noted
    parameters      free ones, that is those of the checkpoint
    exact           share of the split's test part that greedy decoding gets right
    to_target       the first step at which the loss of the fixed sample was at most TARGET_LOSS; None: never
    curve           steps, and that loss after them
    """

    model: str
    split: str
    seed: int
    steps: int
    parameters: int
    exact: Estimate
    to_target: int | None
    curve: Sequence[tuple[int, float]]
    configuration: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.model, self.split, self.seed

    def alike(self, other: ScanRun) -> bool:
        """Whether both were trained by the same configuration, as far as is known."""
        if None not in (self.configuration, other.configuration):
            return self.configuration == other.configuration
        return (self.steps, self.parameters) == (other.steps, other.parameters)


@dataclass(frozen=True, slots=True)
class Stored:
    """Of the file: `target_loss` is of `to_target`, `unfinished` how many runs had begun and not ended."""

    target_loss: float
    unfinished: int
    runs: Sequence[ScanRun]


def configuration_of(plan: LMPlan) -> str:
    """12 hexadecimal digits."""
    same = plan.changed(split="add-jump", seed=0)
    return hashlib.sha256(same.model_dump_json().encode("utf-8")).hexdigest()[:12]


def read_runs(path: Path) -> list[ScanRun]:
    """Nothing if there is no such file. Raises DataError, or OSError."""
    if not path.is_file():
        return []
    try:
        stored = TypeAdapter(Stored).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not written by this command ({place}: {first['msg']})") from None
    if stored.target_loss != TARGET_LOSS:
        raise DataError(f"{path}: steps to a loss of {stored.target_loss:g} are not those to {TARGET_LOSS:g}")
    return list(stored.runs)


def merged(measured: Sequence[ScanRun], stored: Sequence[ScanRun]) -> tuple[list[ScanRun], list[ScanRun]]:
    """What was measured now with what was known of other runs; and what of this was left out, because runs of the model
    that were measured now have another configuration."""
    keys = {run.key for run in measured}
    others = [run for run in stored if run.key not in keys]
    stale = [run for run in others if any(one.model == run.model and not one.alike(run) for one in measured)]
    kept = [run for run in others if run not in stale]
    return sorted([*measured, *kept], key=lambda run: (run.seed, run.model, run.split)), stale


def write_runs(runs: Sequence[ScanRun], unfinished: int, path: Path) -> None:
    """One run on a line. Raises OSError."""
    head = json.dumps({"target_loss": TARGET_LOSS, "unfinished": unfinished})[:-1]
    lines = ",\n".join(json.dumps(asdict(run)) for run in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f'{head}, "runs": [\n{lines}\n]}}\n'.encode())
