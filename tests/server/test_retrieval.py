"""How facts are found: by meaning, by words, or by both."""

from __future__ import annotations

from typing import Any

import pytest

from server.service.options import KnowledgeOptions
from server.service.retrieval import Criteria
from tests.server.support import Service

CODE = "Locker B-117 takes the key tagged QX-5520."
ASKED = "qx5520?"


@pytest.fixture
async def coded(informed: Service) -> Service:
    await informed.put(code=CODE)
    return informed


async def mounted(service: Service, content: str, **knowledge: Any) -> list[dict[str, Any]]:
    answer = await service.chat(content, knowledge=knowledge)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["knowledge"]["facts"])


async def test_a_code_is_found_by_its_words_however_far_its_meaning(coded: Service) -> None:
    best = (await mounted(coded, ASKED))[0]
    assert (best["id"], best["lexical"]) == ("code", 1.0)
    assert [fact["id"] for fact in await mounted(coded, ASKED, retrieval="lexical")] == ["code"]


async def test_by_meaning_words_count_for_nothing(coded: Service) -> None:
    facts = await mounted(coded, ASKED, retrieval="dense", min_score=-1.0, max_gap=4.0)
    scores = [fact["score"] for fact in facts]
    assert len(facts) == 4
    assert scores == sorted(scores, reverse=True)


async def test_search_tells_both_scores(coded: Service) -> None:
    for method in ("dense", "lexical", "hybrid", None):
        body = {"query": "Which executive runs Zorvex?", "retrieval": method}
        best = (await coded.http.post("/admin/kb/search", json=body)).json()["hits"][0]
        assert best["fact"]["id"] == "ceo"
        assert 0 < best["lexical"] < 1
        assert -1 <= best["score"] <= 1


async def test_a_deleted_fact_is_found_by_neither(coded: Service) -> None:
    assert (await coded.http.delete("/admin/kb/facts/code")).status_code == 200
    assert await mounted(coded, ASKED, retrieval="lexical") == []
    assert "code" not in [fact["id"] for fact in await mounted(coded, ASKED, min_score=-1.0)]


async def test_nothing_is_found_for_a_question_about_something_else(coded: Service) -> None:
    assert await mounted(coded, "Which planets of the solar system have rings?") == []


async def test_where_one_fact_leads_the_others_are_not_mounted(coded: Service) -> None:
    question = "Which executive runs Zorvex?"
    everything = await mounted(coded, question, max_gap=4.0, min_score=-1.0)
    assert len(everything) == 4
    assert [fact["id"] for fact in await mounted(coded, question, max_gap=0.0, min_score=-1.0)] == ["ceo"]
    few = await mounted(coded, question, min_score=-1.0)
    assert [fact["id"] for fact in few] == [fact["id"] for fact in everything[: len(few)]]
    assert 1 <= len(few) < 4
    body = {"query": question, "min_score": -1.0}
    assert len((await coded.http.post("/admin/kb/search", json=body)).json()["hits"]) == 4
    few_hits = (await coded.http.post("/admin/kb/search", json={**body, "max_gap": 0.0})).json()["hits"]
    assert [hit["fact"]["id"] for hit in few_hits] == ["ceo"]


NAMESAKES = {
    "north": "The night guard of the North Elmwood orchestra is called David Mercer.",
    "south": "The night guard of the South Elmwood orchestra is called Clara Jensen.",
    "roof": "The roof of the North Elmwood orchestra was designed by Irene Norton.",
}
GUARD = "I lost my bag in the North Elmwood orchestra late last night. What is its night guard called, please?"


@pytest.mark.parametrize(
    ("knowledge", "ids"),
    [
        ({}, {"north"}),
        ({"drop_covered": False}, {"north", "south"}),
        ({"max_gap": 4}, {"north", "south", "roof"}),
        ({"max_gap": 4, "drop_covered": True}, {"north"}),
        ({"retrieval": "dense", "max_gap": 4}, {"north", "south", "roof"}),
    ],
)
async def test_facts_that_a_better_one_covers_are_not_mounted(
    service: Service, knowledge: dict[str, Any], ids: set[str]
) -> None:
    await service.put(**NAMESAKES)
    assert {fact["id"] for fact in await mounted(service, GUARD, **knowledge)} == ids


async def test_the_setting_says_whether_by_default(service: Service) -> None:
    for drop in (True, False):
        settings = service.context.settings.model_copy(update={"drop_covered": drop})
        assert Criteria.of(KnowledgeOptions(), settings).drop_covered is drop
        assert Criteria.of(KnowledgeOptions(retrieval="dense"), settings).drop_covered is False
        assert Criteria.of(KnowledgeOptions(drop_covered=not drop), settings).drop_covered is not drop


async def test_search_finds_what_would_not_be_mounted(service: Service) -> None:
    await service.put(**NAMESAKES)
    hits = (await service.http.post("/admin/kb/search", json={"query": GUARD})).json()["hits"]
    assert {hit["fact"]["id"] for hit in hits} == set(NAMESAKES)
