"""What a question's facts are mounted with: the inputs of φ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kan.knowledge.fit import fits
from kb.encoder.minilm import MiniLMEncoder
from server.service.retrieval import Criteria
from tests.server.support import FACTS, QUESTION, Service


def criteria(**fields: float) -> Criteria:
    return Criteria("default", top_k=3, **{"min_score": -1.0, "min_best_score": -math.inf, **fields})


async def test_facts_are_mounted_with_their_fit(informed: Service, encoder: MiniLMEncoder) -> None:
    retrieval = informed.context.retrieval
    mounted = retrieval.mount(await retrieval.search("me", criteria(), QUESTION))
    texts = sorted(FACTS.values(), key=lambda text: "Zorvex" not in text)
    vectors = dict(zip(texts, encoder.embed(texts), strict=True))
    question = encoder.embed([QUESTION])[0]
    pages = {informed.context.pages.key(text): vectors[text] for text in texts}
    in_order = np.stack([pages[one.fact.key] for one in mounted])
    keys = {informed.context.pages.key(text): text for text in texts}
    ordered = [keys[one.fact.key] for one in mounted]
    shared = [float("Zorvex" in text) for text in ordered]  # the one word of the question that facts have
    assert [one.fit.relevance for one in mounted] == pytest.approx((in_order @ question).tolist(), abs=1e-5)
    np.testing.assert_allclose([one.fit for one in mounted], fits(question, in_order, shared, ordered), atol=1e-5)
    assert mounted[0].fit.bridge > max(one.fit.bridge for one in mounted[1:])


async def test_nothing_is_mounted_where_nothing_is_found(informed: Service) -> None:
    retrieval = informed.context.retrieval
    assert retrieval.mount(await retrieval.search("me", criteria(min_best_score=1.1), QUESTION)) == ()
