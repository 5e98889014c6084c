"""How well `grounded` tells right answers from wrong ones, on kinds of questions that it was not fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kan.knowledge.grounding import NOTHING_MOUNTED, Grounding, Judgement
from lab.evaluation.grounded.cases import Case
from lab.evaluation.grounded.fitting import evidence_of, fit_grounding
from lab.evaluation.report import Figure, Findings
from lab.evaluation.statistics import auroc_interval, bootstrap, calibration_error, reliability
from lab.evaluation.subject import Subject
from lab.questions.sources import kind_of

ALL = "all sets"
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9)
"""Of `require_grounded`."""


def grounding_of(dev: Sequence[Case], test: Sequence[Case], subject: Subject) -> tuple[list[Findings], Grounding]:
    """What is found on kinds that were not fitted to, and a grounding fitted to all dev cases.

    Raises ValueError if they do not suffice.
    """
    sets = dict.fromkeys(case.dataset for case in test)
    judged = judged_unseen(dev, test)
    findings = [part for name in (*sets, ALL) for part in _of_set(name, judged)]
    fitted = fit_grounding(
        [case for case in dev if case.facts],
        model_fingerprint=subject.checkpoint.fingerprint,
        phi_digest=subject.learned.digest,
        fitted_to={
            "cases": dict(Counter(case.dataset for case in dev)),
            "split": "dev",
            "engine": "embedded",
        },
    )
    return findings, fitted


@dataclass(frozen=True, slots=True)
class Judged:
    """A case, and what a calibration says of it that has seen none of its kind."""

    case: Case
    judgement: Judgement
    unattended: Judgement
    """Without attention, as on vLLM."""

    @classmethod
    def of(cls, case: Case, grounding: Grounding) -> Judged:
        if not case.facts:
            return cls(case, NOTHING_MOUNTED, NOTHING_MOUNTED)
        evidence = evidence_of(case)
        return cls(case, grounding(evidence), grounding(replace(evidence, attention=None)))


def judged_unseen(dev: Sequence[Case], test: Sequence[Case]) -> list[Judged]:
    """Each test case by a calibration fitted to the dev cases of other kinds (of its own, if there is no other)."""
    judged: list[Judged] = []
    mounted = [case for case in dev if case.facts]
    for kind in dict.fromkeys(kind_of(case.dataset) for case in test):
        others = [case for case in mounted if kind_of(case.dataset) != kind]
        grounding = fit_grounding(others or mounted)
        judged += (Judged.of(case, grounding) for case in test if kind_of(case.dataset) == kind)
    return judged


def telling(dataset: str, judged: Sequence[Judged]) -> Findings:
    """How well right replies are told from wrong ones: where facts were mounted, and where the right ones were."""
    answered = [one for one in judged if one.case.facts]
    findings = Findings(f"grounded: {dataset}, {len(judged)} questions, {len(answered)} with facts mounted")
    figures = findings.figures
    figures["right"] = bootstrap([one.case.right for one in answered])
    figures["the right fact mounted"] = bootstrap([one.case.fact_mounted for one in answered])
    right = [one.case.right for one in answered]
    for name, scores in _scores(answered):
        figures.update(_auroc(f"AUROC of {name}: the reply is right", scores, right))
    mounted = [one.case.fact_mounted for one in answered]
    scores = [one.judgement.fact_mounted for one in answered]
    figures.update(_auroc("AUROC of fact_mounted: the right fact is mounted", scores, mounted))
    following = [one for one in answered if one.case.fact_mounted]
    scores, follows = [one.judgement.follows_fact for one in following], [one.case.right for one in following]
    figures.update(_auroc("AUROC of follows_fact: the reply is right, the right fact mounted", scores, follows))
    findings.bins = reliability([one.judgement.grounded for one in answered], right)
    figures["expected calibration error"] = calibration_error(findings.bins)
    return findings


def refusing(dataset: str, judged: Sequence[Judged]) -> Findings:
    """What `require_grounded` does at each threshold: how much of it is refused, and how much of the rest is right."""
    findings = Findings(f"require_grounded: {dataset}, {len(judged)} questions, a third of them without an answer")
    for threshold in THRESHOLDS:
        given = [one for one in judged if one.judgement.grounded >= threshold]
        refused = [one.judgement.grounded < threshold for one in judged]
        findings.figures[f"{threshold:g}: refused"] = bootstrap(refused)
        unanswerable = [gone for gone, one in zip(refused, judged, strict=True) if not one.case.answerable]
        lost = [gone for gone, one in zip(refused, judged, strict=True) if one.case.right]
        for name, values in (("unanswerable questions refused", unanswerable), ("right answers refused", lost)):
            if values:
                findings.figures[f"{threshold:g}: {name}"] = bootstrap(values)
        if given:
            findings.figures[f"{threshold:g}: right among those answered"] = bootstrap(
                [one.case.right for one in given]
            )
    return findings


def _of_set(dataset: str, judged: Sequence[Judged]) -> list[Findings]:
    found = [one for one in judged if dataset in (ALL, one.case.dataset)]
    return [telling(dataset, found), refusing(dataset, found)]


def _scores(judged: Sequence[Judged]) -> Iterator[tuple[str, list[float]]]:
    yield "grounded", [one.judgement.grounded for one in judged]
    yield "grounded without attention", [one.unattended.grounded for one in judged]


def _auroc(name: str, scores: Sequence[float], labels: Sequence[bool]) -> dict[str, Figure]:
    """Nothing where there is one class alone."""
    return {name: auroc_interval(scores, labels)} if len(set(labels)) == 2 else {}
