"""Adam on φ and its adapter, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kan.knowledge.phi import Phi
from lab.training.examples import Example
from lab.training.objective import Objective
from lab.training.parameters import Parameters, Units
from lab.training.points import Curve, Point
from lab.training.state import load_state, save_state

VALIDATION_STEP = -1
"""The sampler's batch of this number is the fixed sample that progress is measured on."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """learning_rate is in units of the attention score, i.e. of φ / √d; the adapter's in units of what it changes."""

    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 0.05
    adapter_rank: int = 0
    """0: no adapter, unless the φ to begin with has one."""
    adapter_learning_rate: float = 1e-3
    smoothness: float = 1e-3
    """Weight of the squared second differences of every spline: knots that little data reaches follow the others."""
    validate_every: int = 50
    validation_size: int = 64
    seed: int = 0


class Batches(Protocol):
    """Where examples come from; see `lab.training.examples.Sampler`."""

    def batch(self, step: int, size: int) -> list[Example]: ...


class Trainer:
    """Holds the state of a run: scaled coefficients, optimizer, step, curve."""

    def __init__(
        self, phi: Phi, units: Units, objective: Objective, train: Batches, dev: Batches, options: TrainingOptions
    ) -> None:
        self._parameters = Parameters(phi, units, options.adapter_rank, options.seed)
        self._objective = objective
        self._train = train
        self._dev = dev
        self._options = options
        self._optimizer = torch.optim.Adam(
            [
                {"params": [self._parameters.splines], "peak": options.learning_rate},
                {"params": self._parameters.adapter, "peak": options.adapter_learning_rate},
            ]
        )
        self.step = 0
        self.curve = Curve()

    @property
    def phi(self) -> Phi:
        """As trained so far."""
        with torch.no_grad():
            return self._parameters.phi

    def run(self, save: Callable[[], None], advance: Callable[[Point], None]) -> None:
        """Train to the last step. `save` is called at every validation, `advance` after every step."""
        while self.step < self._options.steps:
            if self.step % self._options.validate_every == 0 and not self.curve.validated(self.step):
                self.validate()
                save()
            advance(self._one_step())
        if not self.curve.validated(self.step):
            self.validate()
        save()

    def validate(self) -> Point:
        """Measure the current φ on the fixed sample of the dev split."""
        size, batch = self._options.validation_size, self._options.batch_size
        examples = self._dev.batch(VALIDATION_STEP, size)
        with torch.no_grad():
            outcomes = [self._objective(examples[start : start + batch], self.phi) for start in range(0, size, batch)]
        point = Point(
            self.step,
            sum(one.reply_loss for one in outcomes) / len(outcomes),
            sum(one.exact for one in outcomes) / len(outcomes),
        )
        self.curve.validation.append(point)
        return point

    def _one_step(self) -> Point:
        options = self._options
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(self.step / options.steps)
        outcome = self._objective(self._train.batch(self.step, options.batch_size), self._parameters.phi)
        self._optimizer.zero_grad()
        (outcome.loss + options.smoothness * _roughness(self._parameters.splines)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        point = Point(self.step, outcome.reply_loss, outcome.exact)
        self.curve.training.append(point)
        return point

    def save(self, path: Path) -> None:
        """Atomically: a run cut off while saving finds the state before."""
        state = {
            "options": asdict(self._options),
            "step": self.step,
            "parameters": self._parameters.state(),
            "optimizer": self._optimizer.state_dict(),
            **self.curve.state(),
        }
        save_state(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state. ResumeError if it is damaged, or of a run with other options."""
        state = load_state(path, asdict(self._options))
        self._parameters.load(state["parameters"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.curve = Curve.of_state(state)


def _schedule(progress: float) -> float:
    """Cosine from 1 to 0.05."""
    return 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2


def _roughness(weights: Tensor) -> Tensor:
    """Sum of squared second differences along the knots [..., knots]."""
    return weights.diff(n=2, dim=-1).square().sum()
