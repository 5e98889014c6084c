"""How a model is trained, whatever it is trained on."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LMOptions(BaseModel):
    """learning_rate is reached after `warm_up` steps, and falls along a cosine to `final` of itself.

    precision is that of the computation; weights, their gradients and AdamW's state are float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: int = Field(ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(3e-3, gt=0, allow_inf_nan=False)
    warm_up: int = Field(50, ge=0)
    final: float = Field(0.02, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False)
    """Of matrices; norms and biases have none."""
    clip: float = Field(1.0, gt=0)
    """Greatest norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    validate_every: int = Field(50, ge=1)
    validation_size: int = Field(256, ge=1)
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, the first being 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)
