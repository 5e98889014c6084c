"""Does φ still beat no φ? A few dozen invented questions among distractors of the same relation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lab.evaluation.cells import Outcome
from lab.evaluation.conditions import mounted
from lab.evaluation.material import Material
from lab.evaluation.statistics import Estimate, bootstrap, paired_difference
from lab.evaluation.subject import Respondent, Setup, Subject

QUESTIONS = 24
DISTRACTORS = 7
MARGIN = 0.2
"""Least difference of the shares right. Its interval must be above 0, too."""


@dataclass(frozen=True, slots=True)
class Smoke:
    """What was found."""

    without: Estimate
    learned: Estimate
    difference: Estimate

    @property
    def passed(self) -> bool:
        return self.difference.mean >= MARGIN and self.difference.low > 0

    @property
    def text(self) -> str:
        verdict = "passed" if self.passed else f"failed: φ must answer {100 * MARGIN:.0f} points more"
        return (
            f"{self.learned.n} synthetic questions, {DISTRACTORS} distractors: φ=0 {100 * self.without.mean:.0f} %, "
            f"φ {100 * self.learned.mean:.0f} % right ({100 * self.difference.mean:+.0f}, 95 % interval "
            f"{100 * self.difference.low:+.0f} to {100 * self.difference.high:+.0f}): {verdict}"
        )


async def smoke(subject: Subject, seed: int, questions: int = QUESTIONS) -> Smoke:
    """φ=0 against the subject's φ, on the same mounted facts."""
    with TemporaryDirectory(prefix="kalmagrove-eval-") as name:
        respondent = Respondent(subject, Path(name))
        found = Material(subject.encoder, None, seed).mounted("synthetic", "test", questions, DISTRACTORS)
        shares = []
        try:
            for phi in (None, subject.learned):
                replies = await respondent.answers(Setup(subject.model, phi), [mounted(one) for one in found])
                outcomes = [Outcome.of(one.question, reply) for one, reply in zip(found, replies, strict=True)]
                shares.append([float(outcome.right) for outcome in outcomes])
        finally:
            await respondent.aclose()
    without, learned = shares
    return Smoke(bootstrap(without), bootstrap(learned), paired_difference(learned, without))
