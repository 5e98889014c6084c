"""What a least score of the best fact keeps out, and what that costs: retrieval alone, without the model."""

from __future__ import annotations

from collections.abc import Sequence

from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.report import Findings
from lab.evaluation.statistics import auroc, bootstrap

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)


def measure(
    base: KnowledgeBase, unrelated: Sequence[str], gold_scores: Sequence[float], min_best_score: float
) -> Findings:
    """`base` answers none of the `unrelated` questions; `gold_scores` are those of facts that answer their question, by
    meaning alone: words can only add to them."""
    near = [base.best_relevance(question, "dense") for question in unrelated]
    best = [base.best_relevance(question, "hybrid") for question in unrelated]
    findings = Findings(f"gating by the best fact's relevance (the server's min_best_score: {min_best_score:g})")
    findings.figures["AUROC of relevance: fact that answers against best unrelated fact"] = auroc(
        [*gold_scores, *near], [True] * len(gold_scores) + [False] * len(near)
    )
    for threshold in sorted({*THRESHOLDS, min_best_score}):
        findings.figures[f"{threshold:g}: unrelated questions without facts"] = bootstrap([s < threshold for s in best])
        findings.figures[f"{threshold:g}: the same, by meaning alone"] = bootstrap([s < threshold for s in near])
        findings.figures[f"{threshold:g}: facts that answer are kept"] = bootstrap(
            [s >= threshold for s in gold_scores]
        )
    return findings
