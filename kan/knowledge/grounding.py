"""Is the answer drawn from a mounted fact? A calibrated score from how well facts fit and how they were attended to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SIGNALS = ("best_relevance", "relevance_gap", "best_attention", "all_attention", "attended_relevance")
RELEVANCE_SIGNALS = 2
"""So many of them, the first ones, are of relevance alone."""
FORMAT = "kalmagrove-grounding-2"


class GroundingError(Exception):
    """A grounding file that cannot be used; the message names it."""


def signals(relevances: Sequence[float], attention: Sequence[float]) -> tuple[float, ...]:
    """What the score is made of, in the order of `SIGNALS`. Both arguments: one number per mounted fact, at least one.

    best_relevance      greatest relevance
    relevance_gap       how far it is above the second (0 for a single fact)
    best_attention      log of the greatest share of attention on one fact
    all_attention       log of the share on all facts
    attended_relevance  relevance averaged by attention
    """
    if not relevances or len(relevances) != len(attention):
        raise ValueError("one relevance and one share of attention for each mounted fact, and at least one fact")
    total = sum(attention)
    attended = sum(r * a for r, a in zip(relevances, attention, strict=True)) / total if total > 0 else 0.0
    return (*relevance_signals(relevances), _log(max(attention)), _log(total), attended)


def relevance_signals(relevances: Sequence[float]) -> tuple[float, float]:
    """The first two of them."""
    ordered = sorted(relevances, reverse=True)
    return ordered[0], ordered[0] - ordered[1] if len(ordered) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic regression: weights of signals, and a bias."""

    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.weights, self.bias))):
            raise ValueError("a calibration needs finite numbers")

    def __call__(self, found: Sequence[float]) -> float:
        """Probability in [0, 1]. ValueError unless there is one signal per weight."""
        logit = self.bias + sum(w * x for w, x in zip(self.weights, found, strict=True))
        return 1 / (1 + math.exp(-min(max(logit, -60.0), 60.0)))


@dataclass(frozen=True, slots=True)
class Grounding:
    """attended: over all signals; unattended: over those of relevance alone, for engines that cannot tell attention."""

    attended: Calibration
    unattended: Calibration
    model_fingerprint: str = ""
    phi_digest: str = ""
    """Attention is only comparable under the same model and φ; empty fits any."""

    def __post_init__(self) -> None:
        if (len(self.attended.weights), len(self.unattended.weights)) != (len(SIGNALS), RELEVANCE_SIGNALS):
            raise ValueError(f"grounding needs {len(SIGNALS)} weights with attention, {RELEVANCE_SIGNALS} without")

    def __call__(self, relevances: Sequence[float], attention: Sequence[float] | None) -> float:
        """Probability in [0, 1] that a mounted fact answers the question; 0 with nothing mounted.

        attention: None where the engine cannot tell it.
        """
        if not relevances:
            return 0.0
        if attention is None:
            return self.unattended(relevance_signals(relevances))
        return self.attended(signals(relevances, attention))

    def save(self, path: Path) -> None:
        """Raises OSError."""
        content = {"format": FORMAT, "signals": SIGNALS, **asdict(self)}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Grounding:
        """Raises GroundingError."""
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT or tuple(content["signals"]) != SIGNALS:
                raise GroundingError(f"{path}: not a grounding file of this version ({FORMAT})")
            attended, unattended = (
                Calibration(tuple(map(float, content[name]["weights"])), float(content[name]["bias"]))
                for name in ("attended", "unattended")
            )
            return cls(attended, unattended, content["model_fingerprint"], content["phi_digest"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise GroundingError(f"{path}: {error}") from error


def _log(share: float) -> float:
    return math.log(max(share, 1e-6))
