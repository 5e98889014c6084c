"""Pages that are made in the background: a large edit does not wait for them, and they come, the newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import EngineUnavailable, FactTokens
from server.service import page_making
from tests.server.support import Service, build_services, running, until


def many(count: int = 40) -> dict[str, str]:
    return {f"stop-{i}": f"Stop number {i} has a shelter." for i in range(count)}


@pytest.fixture
def held_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The engine has no room for pages in the background until this is called."""
    monkeypatch.setattr(service.engine, "has_room", lambda: False)
    return lambda: monkeypatch.setattr(service.engine, "has_room", lambda: True)


def key(service: Service, text: str) -> str:
    return service.context.pages.key(text)


async def share(service: Service) -> float:
    return float((await service.http.get("/admin/kb/version")).json()["pages_made"])


async def test_a_large_edit_does_not_wait_for_its_pages(service: Service, held_back: Callable[[], None]) -> None:
    before = service.engine.stats().facts_encoded
    await service.put(**many())
    assert service.engine.stats().facts_encoded == before
    assert await share(service) == 0
    found = (await service.http.post("/admin/kb/search", json={"query": "Stop number 7"})).json()["hits"]
    assert found, "it is indexed"
    held_back()
    await until(lambda: service.context.page_making.share == 1.0)
    assert service.engine.stats().facts_encoded == before + 40
    assert "kalmagrove_facts_with_pages 40.0" in (await service.http.get("/metrics")).text
    await service.engine.audit({key(service, text) for text in many().values()})


async def test_a_fact_that_is_asked_for_before_its_turn(service: Service, held_back: Callable[[], None]) -> None:
    await service.put(**many())
    answer = (await service.chat("Which stop has number 7?", knowledge={"top_k": 1, "min_score": -1})).json()
    (mounted,) = answer["knowledge"]["facts"]
    assert service.engine.has_pages(mounted["page"])
    assert service.engine.stats().facts_encoded == 1


async def test_pages_are_expected_before_the_request_is_the_engines(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that those on disk are read while the prompt is made and waits."""
    told: list[str] = []
    expect, generate = service.engine.expect, service.engine.generate
    monkeypatch.setattr(service.engine, "expect", lambda keys: (told.extend(keys), expect(keys)))
    monkeypatch.setattr(service.engine, "generate", lambda request: (told.append("submitted"), generate(request))[1])
    await service.put(depot="Mara runs the depot.")
    await service.chat("Who runs the depot?", knowledge={"top_k": 1, "min_score": -1})
    assert told == [key(service, "Mara runs the depot."), "submitted"]


async def test_the_newest_come_first(
    service: Service, held_back: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, order = service.engine.encode, list[str]()

    async def noted(facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        order.extend(fact.key for fact in facts)
        await plain(facts, bulk=bulk)

    await service.put(**many(20))
    await service.put(**{f"late-{i}": f"Late stop {i} is dark." for i in range(12)})
    monkeypatch.setattr(service.engine, "encode", noted)
    held_back()
    await until(lambda: len(order) == 32)
    late = {key(service, f"Late stop {i} is dark.") for i in range(12)}
    assert set(order[:12]) == late


async def test_what_was_deleted_meanwhile_is_not_made(service: Service, held_back: Callable[[], None]) -> None:
    await service.put(**many(12))
    for i in range(10):
        await service.http.delete(f"/admin/kb/facts/stop-{i}")
    held_back()
    await until(lambda: service.context.page_making.share == 1.0)
    await service.engine.audit({key(service, f"Stop number {i} has a shelter.") for i in (10, 11)})
    assert service.engine.stats().facts_encoded == 2


async def test_what_is_deleted_while_it_is_made_leaves_nothing(
    service: Service, held_back: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is told to forget it before it is told to make it."""
    plain, deleted = service.engine.encode, asyncio.Event()

    async def late(facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        if bulk:
            for i in range(12):
                await service.http.delete(f"/admin/kb/facts/stop-{i}")
        await plain(facts, bulk=bulk)
        deleted.set()

    await service.put(**many(12))
    monkeypatch.setattr(service.engine, "encode", late)
    held_back()
    await asyncio.wait_for(deleted.wait(), 20)
    await until(lambda: service.engine.stats().facts_with_pages == 0)
    await service.engine.audit(set())


async def test_a_failure_is_logged_and_the_rest_is_made(
    service: Service,
    held_back: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, failed = service.engine.encode, list[int]()

    async def once(facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        if not failed:
            failed.append(len(facts))
            raise EngineUnavailable("not now")
        await plain(facts, bulk=bulk)

    monkeypatch.setattr(page_making, "FAILURE_PAUSE_SECONDS", 0.0)
    await service.put(**many(20))
    monkeypatch.setattr(service.engine, "encode", once)
    held_back()
    await until(lambda: service.engine.stats().facts_encoded == 20 - page_making.AT_ONCE)
    assert failed == [page_making.AT_ONCE]
    assert "pages could not be made in the background" in caplog.text


async def test_a_start_wants_what_has_none(service: Service, held_back: Callable[[], None]) -> None:
    await service.put(**many(20))
    await service.put(one="A single fact about the harbour.")
    making = service.context.page_making
    making._wanted.clear()
    await asyncio.to_thread(making.want_missing)
    assert len(making) == 20, "the small edit's pages are there"
    assert not any("harbour" in text for text in making._wanted)


COLD = {f"cafe-{i}": f"The cafe at stop {i} sells tea." for i in range(8)}
EVERYTHING = {"top_k": 8, "min_score": -1, "max_gap": 4}


@pytest.mark.parametrize("budget", [0, 100])
async def test_a_question_waits_for_so_many_cold_tokens_at_most(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """What is left out is the least relevant, is named, and is made next."""
    async with running(build_services(tmp_path, tiny, encoder), cold_tokens=budget) as service:
        monkeypatch.setattr(service.engine, "has_room", lambda: False)
        await service.put(**COLD)
        fitting = budget // len(service.context.pages.tokens(COLD["cafe-0"]).tokens)
        first = (await service.chat("Which cafe sells tea?", knowledge=EVERYTHING)).json()["knowledge"]
        assert [len(first["facts"]), len(first["left_out"])] == [fitting, len(COLD) - fitting]
        assert {one["id"] for one in (*first["facts"], *first["left_out"])} == set(COLD)
        next_made = list(service.context.page_making._wanted)[::-1][: len(first["left_out"])]
        assert next_made == [COLD[one["id"]] for one in first["left_out"]]
        assert service.engine.stats().facts_encoded == fitting
        assert f"kalmagrove_facts_left_out_total {len(COLD) - fitting}.0" in (await service.http.get("/metrics")).text
        monkeypatch.setattr(service.engine, "has_room", lambda: True)
        await until(lambda: service.context.page_making.share == 1.0)
        second = (await service.chat("Which cafe sells tea?", knowledge=EVERYTHING)).json()["knowledge"]
        assert len(second["facts"]) == len(COLD)
        assert "left_out" not in second
        found = (await service.http.post("/admin/kb/search", json={"query": "tea", "min_score": -1})).json()
        assert len(found["hits"]) > 0
