"""/v1/rerank and /v1/score: cosines of what /v1/embeddings gives, within the same bounds."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from tests.server.support import FACTS, MODEL, QUESTION, Service, error

ENCODER = "all-minilm-l6-v2"
TOLERANCE = 5e-3
"""The encoder's numbers depend a little on what is embedded beside."""
TEXTS = list(FACTS.values())


async def post(service: Service, path: str, **fields: Any) -> httpx.Response:
    return await service.http.post(f"/v1/{path}", json={"model": ENCODER, **fields})


async def vectors(service: Service, *texts: str) -> np.ndarray[Any, Any]:
    data = (await post(service, "embeddings", input=list(texts))).json()
    return np.array([one["embedding"] for one in data["data"]])


async def test_rerank(service: Service) -> None:
    expected = await vectors(service, QUESTION, *TEXTS)
    cosines = expected[1:] @ expected[0]
    response = (await post(service, "rerank", query=QUESTION, documents=TEXTS)).json()
    assert [one["index"] for one in response["results"]] == list(np.argsort(-cosines))
    for one in response["results"]:
        assert one["relevance_score"] == pytest.approx(cosines[one["index"]], abs=TOLERANCE)
        assert "document" not in one
    assert response["usage"]["total_tokens"] == response["meta"]["tokens"]["input_tokens"] > 0
    newer = {"model": ENCODER, "query": QUESTION, "documents": TEXTS}
    assert (await service.http.post("/v2/rerank", json=newer)).json()["results"] == response["results"]
    objects = [{"text": text, "id": "7"} for text in TEXTS]
    fields = {"query": QUESTION, "documents": objects, "top_n": 1, "return_documents": True}
    (best,) = (await post(service, "rerank", **fields)).json()["results"]
    assert best == {**response["results"][0], "document": {"text": FACTS["ceo"]}}


async def test_equal_documents_keep_their_order(service: Service) -> None:
    results = (await post(service, "rerank", query="x", documents=["same", "same", "same"])).json()["results"]
    assert [one["index"] for one in results] == [0, 1, 2]


async def test_score(service: Service) -> None:
    expected = await vectors(service, QUESTION, *TEXTS)
    one = (await post(service, "score", text_1=QUESTION, text_2=TEXTS)).json()
    assert [pair["score"] for pair in one["data"]] == pytest.approx(expected[1:] @ expected[0], abs=TOLERANCE)
    assert [pair["index"] for pair in one["data"]] == [0, 1, 2]
    each = (await post(service, "score", text_1=TEXTS, text_2=TEXTS)).json()
    assert [pair["score"] for pair in each["data"]] == pytest.approx([1, 1, 1], abs=TOLERANCE)
    assert max(pair["score"] for pair in each["data"]) <= 1
    (single,) = (await post(service, "score", text_1=QUESTION, text_2=TEXTS[0])).json()["data"]
    assert single["score"] == pytest.approx(one["data"][0]["score"], abs=TOLERANCE)


LONG = "word " * 300
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("rerank", {"query": ""}, "query"),
    ("rerank", {"query": LONG}, "query"),
    ("rerank", {"documents": []}, "documents"),
    ("rerank", {"documents": ["x", ""]}, "documents[1]"),
    ("rerank", {"documents": ["x", LONG]}, "documents[1]"),
    ("rerank", {"documents": ["x", {"text": LONG}]}, "documents[1].text"),
    ("rerank", {"documents": [{"image": "x"}]}, "documents[0].text"),
    ("rerank", {"documents": ["x"] * 2048}, "documents"),
    ("rerank", {"top_n": 0}, "top_n"),
    ("rerank", {"rank_fields": ["title"]}, "rank_fields"),
    ("score", {"text_1": ["x", "y"], "text_2": ["x", "y", "z"]}, "text_1"),
    ("score", {"text_1": []}, "text_1"),
    ("score", {"text_2": ["x", LONG]}, "text_2[1]"),
    ("score", {"text_1": LONG}, "text_1"),
]


async def test_refusals(service: Service) -> None:
    fitting = {"rerank": {"query": "x", "documents": ["x"]}, "score": {"text_1": "x", "text_2": ["x"]}}
    for path, fields, param in CASES:
        response = await post(service, path, **{**fitting[path], **fields})
        assert (response.status_code, error(response)["param"]) == (400, param), (path, fields, response.text)
    for path, fields in fitting.items():
        response = await post(service, path, **fields)
        assert response.status_code == 200
        wrong = await service.http.post(f"/v1/{path}", json={**fields, "model": MODEL})
        assert (wrong.status_code, error(wrong)["code"]) == (404, "model_not_found")
