"""Fits and judges `grounded`: with the gold fact mounted among others, and with the others alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kan.knowledge.grounding import RELEVANCE_SIGNALS, SIGNALS, Calibration, Grounding, signals
from lab.evaluation.conditions import mounted
from lab.evaluation.material import Material
from lab.evaluation.report import Findings
from lab.evaluation.statistics import auroc, calibration_error, reliability
from lab.evaluation.subject import Advance, Respondent, Setup, Subject
from lab.questions.mounting import Mounted
from lab.questions.question import Split

DISTRACTORS = 7


@dataclass(slots=True)
class Cases:
    """What the score is computed from, one entry per question."""

    relevances: list[tuple[float, ...]] = field(default_factory=list)
    attention: list[tuple[float, ...]] = field(default_factory=list)
    fits: list[bool] = field(default_factory=list)
    """A mounted fact answers the question."""
    datasets: list[str] = field(default_factory=list)

    def signals(self) -> list[tuple[float, ...]]:
        return [signals(r, a) for r, a in zip(self.relevances, self.attention, strict=True)]


def fit_calibration(found: Sequence[Sequence[float]], labels: Sequence[bool], ridge: float = 1.0) -> Calibration:
    """The most probable truth of `labels` given the signals `found` [n][f].

    `ridge` is the L2 penalty on the weights of standardised signals; it keeps separable data finite.
    Raises ValueError without both classes.
    """
    scaler = StandardScaler()
    model = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-8)
    model.fit(scaler.fit_transform(found), labels)
    weights = model.coef_[0] / scaler.scale_
    bias = model.intercept_[0] - weights @ scaler.mean_
    return Calibration(tuple(map(float, weights)), float(bias))


async def measure(
    subject: Subject,
    material: Material,
    sets: Sequence[str],
    setup: Setup,
    respondent: Respondent,
    questions: int,
    advance: Advance,
) -> tuple[Findings, Grounding]:
    """Fitted on `questions` dev questions of each set, with and without gold; judged on as many test questions."""
    dev = await _cases(material, sets, "dev", setup, respondent, questions, advance)
    test = await _cases(material, sets, "test", setup, respondent, questions, advance)
    found = dev.signals()
    attended = fit_calibration(found, dev.fits)
    unattended = fit_calibration([row[:RELEVANCE_SIGNALS] for row in found], dev.fits)
    grounding = Grounding(attended, unattended, subject.checkpoint.fingerprint, subject.learned.digest)
    scores = [grounding(r, a) for r, a in zip(test.relevances, test.attention, strict=True)]
    without = [grounding(r, None) for r in test.relevances]
    findings = Findings(f"grounded: does a mounted fact answer the question? ({DISTRACTORS} distractors)")
    findings.bins = reliability(scores, test.fits)
    figures = findings.figures
    figures["AUROC"] = auroc(scores, test.fits)
    figures["expected calibration error"] = calibration_error(findings.bins)
    figures["AUROC without attention"] = auroc(without, test.fits)
    figures["expected calibration error without attention"] = calibration_error(reliability(without, test.fits))
    figures["cases"] = float(len(scores))
    for dataset in sets:
        inside = [place for place, name in enumerate(test.datasets) if name == dataset]
        figures[f"AUROC, {dataset}"] = auroc([scores[i] for i in inside], [test.fits[i] for i in inside])
    for place, name in enumerate(SIGNALS):
        figures[f"AUROC of {name} alone"] = auroc([row[place] for row in test.signals()], test.fits)
    return findings, grounding


async def _cases(
    material: Material,
    sets: Sequence[str],
    split: Split,
    setup: Setup,
    respondent: Respondent,
    questions: int,
    advance: Advance,
) -> Cases:
    cases = Cases()
    for dataset in sets:
        for with_gold in (True, False):
            # As many facts either way: their number must not give the answer away.
            count = DISTRACTORS if with_gold else DISTRACTORS + 1
            found = material.mounted(dataset, split, questions, count, with_gold=with_gold)
            await _add(cases, [one for one in found if one.facts], with_gold, setup, respondent, advance)
    return cases


async def _add(
    cases: Cases, found: Sequence[Mounted], fits: bool, setup: Setup, respondent: Respondent, advance: Advance
) -> None:
    replies = await respondent.answers(setup, [mounted(one) for one in found], advance)
    cases.relevances += [one.scores for one in found]
    cases.attention += [reply.attention for reply in replies]
    cases.fits += [fits] * len(found)
    cases.datasets += [one.question.dataset for one in found]
