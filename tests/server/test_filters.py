"""Filters on metadata, as clients send them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.support import Service

TOWNS = {"Velm": 1990, "Ostra": 2001, "Quill": 2020}
QUESTION = "When does the harbour of the town open?"


@pytest.fixture
async def towns(service: Service) -> Service:
    facts = [
        {"id": town, "text": f"The harbour of {town} opens at six.", "metadata": {"town": town, "year": year}}
        for town, year in TOWNS.items()
    ]
    reply = await service.http.put("/admin/kb/facts", json={"facts": facts})
    assert reply.status_code == 200, reply.text
    return service


async def mounted(service: Service, filter: Any, content: str = QUESTION) -> set[str]:
    answer = await service.chat(content, knowledge={"filter": filter, "min_score": -1.0, "max_gap": 4.0})
    assert answer.status_code == 200, answer.text
    return {fact["id"] for fact in answer.json()["knowledge"]["facts"]}


CASES: list[tuple[Any, set[str]]] = [
    (None, set(TOWNS)),
    ({}, set(TOWNS)),
    ({"town": {"eq": "Velm"}}, {"Velm"}),
    ({"year": {"gte": 2001, "lt": 2020}}, {"Ostra"}),
    ({"or": [{"town": {"in": ["Velm"]}}, {"not": {"year": {"lt": 2020}}}]}, {"Velm", "Quill"}),
    ({"town": {"eq": 1990}}, set()),
]


async def test_only_what_passes_is_mounted_found_and_listed(towns: Service) -> None:
    for wanted, expected in CASES:
        assert await mounted(towns, wanted) == expected
        body = {"query": QUESTION, "min_score": -1.0, "filter": wanted}
        found = (await towns.http.post("/admin/kb/search", json=body)).json()
        assert {hit["fact"]["id"] for hit in found["hits"]} == expected
        params = {} if wanted is None else {"filter": json.dumps(wanted)}
        listed = await towns.http.get("/admin/kb/facts", params=params)
        assert {fact["id"] for fact in listed.json()["facts"]} == expected


async def test_windows_of_a_long_question_are_filtered_too(towns: Service) -> None:
    body = {"query": f"{QUESTION} " * 60, "min_score": -1.0, "filter": {"town": {"eq": "Ostra"}}}
    found = (await towns.http.post("/admin/kb/search", json=body)).json()
    assert [hit["fact"]["id"] for hit in found["hits"]] == ["Ostra"]


async def test_a_turn_that_points_back_is_filtered_too(towns: Service) -> None:
    turns = [
        {"role": "user", "content": "When does the harbour of Velm open?"},
        {"role": "assistant", "content": "At six."},
        {"role": "user", "content": "And its depot?"},
    ]
    knowledge = {"filter": {"town": {"eq": "Ostra"}}, "min_score": -1.0}
    answer = await towns.chat(messages=turns, knowledge=knowledge)
    assert [fact["id"] for fact in answer.json()["knowledge"]["facts"]] == ["Ostra"]


async def test_an_edit_of_metadata_counts_at_once(towns: Service) -> None:
    moved = {"id": "Velm", "text": "The harbour of Velm opens at six.", "metadata": {"town": "Nowhere"}}
    await towns.http.put("/admin/kb/facts", json={"facts": [moved]})
    assert await mounted(towns, {"town": {"eq": "Velm"}}) == set()
    assert await mounted(towns, {"town": {"eq": "Nowhere"}}) == {"Velm"}


async def test_unknown_operators_are_refused_by_name(towns: Service) -> None:
    wrong = {"town": {"near": "Velm"}}
    refused = [
        await towns.chat(knowledge={"filter": wrong}),
        await towns.http.post("/admin/kb/search", json={"query": "x", "filter": wrong}),
        await towns.http.get("/admin/kb/facts", params={"filter": json.dumps(wrong)}),
    ]
    for reply, path in zip(refused, ["knowledge.filter.town.near", *["filter.town.near"] * 2], strict=True):
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["param"], error["code"], error["type"]) == (path, "invalid_value", "invalid_request_error")
        assert "eq, ne, in" in error["message"]
