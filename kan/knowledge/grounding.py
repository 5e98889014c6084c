"""Is a reply drawn from a mounted fact that answers the question? Calibrated, from what is computed anyway."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kan.knowledge.evidence import ATTENDED, REPLY, UNATTENDED, Evidence

FORMAT = "kalmagrove-grounding-3"


class GroundingError(Exception):
    """A grounding file that cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of a reply. Each is a probability in [0, 1]."""

    fact_mounted: float
    """The facts that answer the question are mounted."""
    follows_fact: float
    """The reply says what they say, if they are."""
    grounded: float
    """Both."""

    @classmethod
    def mean(cls, judged: Sequence[Judgement]) -> Judgement:
        """Of at least one."""
        mounted, follows, grounded = (
            math.fsum(values) / len(judged)
            for values in zip(*((one.fact_mounted, one.follows_fact, one.grounded) for one in judged), strict=True)
        )
        return cls(mounted, follows, grounded)


NOTHING_MOUNTED = Judgement(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic regression: weights of signals by their names, and a bias."""

    weights: Mapping[str, float]
    bias: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.weights.values(), self.bias))):
            raise ValueError("a calibration needs finite numbers")

    def __call__(self, found: Mapping[str, float]) -> float:
        """Probability in [0, 1]. `found` has all signals that there is a weight for."""
        logit = self.bias + math.fsum(weight * found[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-min(max(logit, -60.0), 60.0)))


@dataclass(frozen=True, slots=True)
class Grounding:
    """Three regressions; each has the signals that it is named for in `kan.knowledge.evidence`."""

    fact_mounted: Calibration
    """Over the signals `ATTENDED`."""
    fact_mounted_unattended: Calibration
    """The same over `UNATTENDED`, for engines that cannot tell attention."""
    follows_fact: Calibration
    """Over `REPLY`."""
    model_fingerprint: str = ""
    phi_digest: str = ""
    """Attention and log probabilities are only comparable under the same model and φ; empty fits any."""
    fitted_to: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, for people."""

    def __post_init__(self) -> None:
        for calibration, names in (
            (self.fact_mounted, ATTENDED),
            (self.fact_mounted_unattended, UNATTENDED),
            (self.follows_fact, REPLY),
        ):
            if set(calibration.weights) != set(names):
                raise ValueError(f"grounding needs weights for {', '.join(names)}")

    def __call__(self, evidence: Evidence) -> Judgement:
        """Judge a reply."""
        found = evidence.signals()
        mounted = (self.fact_mounted_unattended if evidence.attention is None else self.fact_mounted)(found)
        follows = self.follows_fact(found)
        return Judgement(mounted, follows, mounted * follows)

    def save(self, path: Path) -> None:
        """Raises OSError."""
        content = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Grounding:
        """Raises GroundingError."""
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"not a grounding file of this version ({FORMAT})")
            return cls(
                _calibration(content["fact_mounted"]),
                _calibration(content["fact_mounted_unattended"]),
                _calibration(content["follows_fact"]),
                model_fingerprint=str(content["model_fingerprint"]),
                phi_digest=str(content["phi_digest"]),
                fitted_to=dict(content["fitted_to"]),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise GroundingError(f"{path}: {error}") from error


def _calibration(content: Any) -> Calibration:
    return Calibration({name: float(weight) for name, weight in content["weights"].items()}, float(content["bias"]))
