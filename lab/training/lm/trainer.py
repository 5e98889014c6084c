"""AdamW on all weights, resumable at any step: a run that was cut off ends with the same bits as one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kan.config import KANConfig
from kan.model import KANModel
from lab.training.lm.options import LMOptions
from lab.training.lm.sample import Laid, Samples, lay_out
from lab.training.lm.weights import Trainable, initial_weights
from lab.training.points import Curve, Point
from lab.training.state import load_state, save_state

VALIDATION_STEP = -1
"""The samples' batch of this number is the fixed one that progress is measured on."""
BETAS = (0.9, 0.98)
"""Of AdamW: a shorter memory of squares than usual, as runs are short."""


class LMTrainer:
    """Holds the state of a run: weights, optimizer, step, curve."""

    def __init__(self, config: KANConfig, samples: Samples, options: LMOptions, device: torch.device) -> None:
        self._samples = samples
        self._options = options
        self._device = device
        self._trainable = Trainable(config, getattr(torch, options.precision), device)
        self._weights = {
            name: tensor.to(device).requires_grad_() for name, tensor in initial_weights(config, options.seed).items()
        }
        matrices = [one for one in self._weights.values() if one.ndim > 1]
        vectors = [one for one in self._weights.values() if one.ndim == 1]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS)
        self.step = 0
        self.curve = Curve()

    @property
    def weights(self) -> dict[str, Tensor]:
        """As trained so far, on the CPU, in float32."""
        return {name: tensor.detach().cpu() for name, tensor in self._weights.items()}

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
        """Measure the current weights on the fixed sample."""
        samples = sorted(self._samples.batch(VALIDATION_STEP, self._options.validation_size), key=len)
        size = self._options.batch_size
        with torch.no_grad():
            model = self._trainable(self._weights)
            parts = [
                _measured(model, lay_out(samples[start : start + size], self._samples.preamble).to(self._device))
                for start in range(0, len(samples), size)
            ]
        losses = torch.cat([losses for losses, _ in parts])
        exact = torch.cat([exact for _, exact in parts])
        point = Point(self.step, losses.mean().item(), exact.float().mean().item())
        self.curve.validation.append(point)
        return point

    def _one_step(self) -> Point:
        options = self._options
        for group in self._optimizer.param_groups:
            group["lr"] = options.rate(self.step)
        laid = lay_out(self._samples.batch(self.step, options.batch_size), self._samples.preamble).to(self._device)
        losses, exact = _measured(self._trainable(self._weights), laid)
        loss = losses.mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights.values(), options.clip)
        self._optimizer.step()
        self.step += 1
        point = Point(self.step, loss.item(), exact.float().mean().item())
        self.curve.training.append(point)
        return point

    def save(self, path: Path) -> None:
        """Atomically."""
        state = {
            "options": self._options.model_dump(),
            "step": self.step,
            "weights": {name: tensor.detach() for name, tensor in self._weights.items()},
            "optimizer": self._optimizer.state_dict(),
            **self.curve.state(),
        }
        save_state(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state. ResumeError if it is damaged, or of a run with other options."""
        state = load_state(path, self._options.model_dump())
        with torch.no_grad():
            for name, tensor in self._weights.items():
                tensor.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.curve = Curve.of_state(state)


def _measured(model: KANModel, laid: Laid) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token of the replies, and which replies are exact."""
    logits = laid.logits(model)
    return F.cross_entropy(logits, laid.targets, reduction="none"), laid.exact(logits)
