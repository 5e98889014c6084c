"""What a training run knows of its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """After so many steps. loss in nats per token of a reply; exact: the share of replies whose every token is the
    likeliest."""

    step: int
    loss: float
    exact: float


@dataclass(slots=True)
class Curve:
    """Of the training batches, and of the fixed sample that progress is measured on."""

    training: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)

    def validated(self, step: int) -> bool:
        """Whether this step's figures are known: a resumed run begins with them."""
        return bool(self.validation) and self.validation[-1].step == step

    def state(self) -> dict[str, Any]:
        """For a state on disk: `of_state` reads it."""
        return asdict(self)

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Curve:
        """From a state that holds, beside other things, what `state` gave."""
        return cls([Point(**point) for point in state["training"]], [Point(**point) for point in state["validation"]])
