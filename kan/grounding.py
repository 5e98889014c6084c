"""Is the answer drawn from a mounted fact? A calibrated score from how well facts fit and how they were attended to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SIGNALS = ("best_relevance", "relevance_gap", "best_attention", "all_attention", "attended_relevance")
FORMAT = "kalmagrove-grounding-1"


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
    ordered = sorted(relevances, reverse=True)
    gap = ordered[0] - ordered[1] if len(ordered) > 1 else 0.0
    total = sum(attention)
    attended = sum(r * a for r, a in zip(relevances, attention, strict=True)) / total if total > 0 else 0.0
    return (ordered[0], gap, _log(max(attention)), _log(total), attended)


@dataclass(frozen=True, slots=True)
class Grounding:
    """Logistic regression over the signals: weights in the order of `SIGNALS`."""

    weights: tuple[float, ...]
    bias: float
    model_fingerprint: str = ""
    phi_digest: str = ""
    """Attention is only comparable under the same model and φ; empty fits any."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(SIGNALS) or not all(map(math.isfinite, (*self.weights, self.bias))):
            raise ValueError(f"grounding needs a finite bias and {len(SIGNALS)} finite weights")

    def __call__(self, relevances: Sequence[float], attention: Sequence[float]) -> float:
        """Probability in [0, 1] that a mounted fact answers the question; 0 with nothing mounted."""
        if not relevances:
            return 0.0
        found = signals(relevances, attention)
        logit = self.bias + sum(w * x for w, x in zip(self.weights, found, strict=True))
        return 1 / (1 + math.exp(-min(max(logit, -60.0), 60.0)))

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
            weights = tuple(float(weight) for weight in content["weights"])
            return cls(weights, float(content["bias"]), content["model_fingerprint"], content["phi_digest"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise GroundingError(f"{path}: {error}") from error


def _log(share: float) -> float:
    return math.log(max(share, 1e-6))
