"""The regressions behind `grounded`, fitted to cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kan.knowledge.evidence import ATTENDED, REPLY, UNATTENDED, Evidence
from kan.knowledge.grounding import Calibration, Grounding
from lab.evaluation.grounded.cases import Case
from server.service.agreement import MountedWords


def evidence_of(case: Case) -> Evidence:
    """As the server has it, of a case for which facts were mounted."""
    words = MountedWords(case.question, [fact.text for fact in case.facts])
    return Evidence(
        relevances=tuple(fact.relevance for fact in case.facts),
        lexical=tuple(fact.lexical for fact in case.facts),
        others=case.others,
        attention=case.attention,
        logprobs=case.logprobs,
        agreement=words.agreement(case.reply),
    )


def fit_calibration(found: Sequence[Mapping[str, float]], labels: Sequence[bool], ridge: float = 1.0) -> Calibration:
    """The most probable truth of `labels` given the signals `found`, which all have the same names.

    `ridge` is the L2 penalty on the weights of standardised signals; it keeps separable data finite. Labels of one
    class say nothing about signals: then only their smoothed share counts. Raises ValueError without any.
    """
    if not found:
        raise ValueError("no cases to fit to")
    names = list(found[0])
    if len(set(labels)) < 2:
        share = (sum(labels) + 1) / (len(labels) + 2)
        return Calibration(dict.fromkeys(names, 0.0), math.log(share / (1 - share)))
    scaler = StandardScaler()
    model = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-8)
    model.fit(scaler.fit_transform([[one[name] for name in names] for one in found]), labels)
    weights = model.coef_[0] / scaler.scale_
    bias = model.intercept_[0] - weights @ scaler.mean_
    return Calibration(dict(zip(names, map(float, weights), strict=True)), float(bias))


def fit_grounding(cases: Sequence[Case], **made_for: Any) -> Grounding:
    """To cases with facts mounted. `made_for`: the further fields. Raises ValueError unless the right ones were."""
    signals = [evidence_of(case).signals() for case in cases]
    mounted = [case.fact_mounted for case in cases]
    following = [place for place, case in enumerate(cases) if case.fact_mounted]
    return Grounding(
        fact_mounted=fit_calibration(_chosen(signals, ATTENDED), mounted),
        fact_mounted_unattended=fit_calibration(_chosen(signals, UNATTENDED), mounted),
        follows_fact=fit_calibration(
            _chosen([signals[place] for place in following], REPLY), [cases[place].right for place in following]
        ),
        **made_for,
    )


def _chosen(signals: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[dict[str, float]]:
    return [{name: one[name] for name in names} for one in signals]
