"""/admin/kb: edits, lists, search, history, rollback, expiry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from kb.errors import WriteFailed
from kb.log.fact_log import FactLog
from server.engine.protocol import EngineUnavailable, FactTokens
from server.services import Context
from tests.server.support import FACTS, QUESTION, Service, build_services, error, running, until


async def test_put_get_list_delete(service: Service) -> None:
    reply = await service.put(**FACTS)
    assert reply == {"version": 1, "upserted": 3, "visible_ms": reply["visible_ms"]}
    assert reply["visible_ms"] > 0
    fact = (await service.http.get("/admin/kb/facts/ceo")).json()
    assert fact["text"] == FACTS["ceo"]
    assert (fact["version"], fact["namespace"], fact["metadata"], fact["expires_at"]) == (1, "default", {}, None)
    page = (await service.http.get("/admin/kb/facts", params={"limit": 2})).json()
    assert [fact["id"] for fact in page["facts"]] == ["ceo", "ferry"]
    rest = (await service.http.get("/admin/kb/facts", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [fact["id"] for fact in rest["facts"]] == ["tram"]
    assert rest["next_cursor"] is None
    gone = (await service.http.delete("/admin/kb/facts/ceo")).json()
    assert gone == {"version": 2, "deleted": 1, "visible_ms": gone["visible_ms"]}
    for response in (await service.http.get("/admin/kb/facts/ceo"), await service.http.delete("/admin/kb/facts/ceo")):
        assert response.status_code == 404
        assert error(response)["param"] == "id"
    assert service.version == 2


async def test_pages_come_with_the_fact_and_go_with_it(service: Service) -> None:
    async def pages() -> int:
        await service.engine.audit()
        return service.engine.stats().pages_knowledge

    before = await pages()
    await service.put(ceo=FACTS["ceo"])
    encoded = service.engine.stats().facts_encoded
    assert await pages() > before
    await service.chat()
    assert service.engine.stats().facts_encoded == encoded  # nothing was left to do for the question
    await service.http.delete("/admin/kb/facts/ceo")
    assert await pages() == before


async def test_a_text_shared_by_two_facts_stays_until_the_last_is_gone(service: Service) -> None:
    before = service.engine.stats().pages_knowledge
    await service.put(one=FACTS["ceo"], two=FACTS["ceo"])
    await service.http.delete("/admin/kb/facts/one")
    await service.engine.audit()
    assert service.engine.stats().pages_knowledge > before
    await service.http.delete("/admin/kb/facts/two")
    await service.engine.audit()
    assert service.engine.stats().pages_knowledge == before


async def test_a_batch_is_all_or_nothing(service: Service) -> None:
    facts = [{"id": "a", "text": "Good."}, {"id": "b", "text": "word " * 300}]
    response = await service.http.put("/admin/kb/facts", json={"facts": facts})
    assert response.status_code == 400
    assert error(response)["param"] == "facts[1].text"
    assert service.version == 0


async def test_of_two_editors_who_read_the_same_version_one_wins(service: Service) -> None:
    """Whichever writes first; and what was refused leaves neither facts nor pages."""

    async def save(name: str, version: int) -> httpx.Response:
        facts = [
            {"id": "ceo", "text": f"The chief executive is {name}.", "if_version": version},
            {"id": f"by-{name}", "text": f"{name} was here."},
        ]
        return await service.http.put("/admin/kb/facts", json={"facts": facts})

    await service.put(ceo=FACTS["ceo"])
    for version in (1, 2):
        ann, eve = await asyncio.gather(save("Ann", version), save("Eve", version))
        won, lost = ("Ann", eve) if ann.status_code == 200 else ("Eve", ann)
        assert sorted((ann.status_code, eve.status_code)) == [200, 409]
        refusal = error(lost)
        assert (refusal["code"], refusal["param"]) == ("version_conflict", "facts[0].if_version")
        told = f"fact 'ceo' in namespace 'default' is at version {version + 1}, and is expected at version {version}"
        assert refusal["message"] == f"facts[0].if_version: {told}"
        facts = (await service.http.get("/admin/kb/facts")).json()["facts"]
        assert (service.version, facts[-1]["text"]) == (version + 1, f"The chief executive is {won}.")
    names = {fact["id"].removeprefix("by-") for fact in facts[:-1]}
    await service.engine.audit()
    held = service.engine.stats().pages_knowledge
    before = service.engine.stats().facts_encoded
    assert (await save("Nobody", 1)).status_code == 409
    await service.engine.audit()
    assert (service.engine.stats().pages_knowledge, service.engine.stats().facts_encoded) == (held, before)
    assert names <= {"Ann", "Eve"}


async def test_a_fact_that_must_be_new(service: Service) -> None:
    async def save(**fact: object) -> httpx.Response:
        return await service.http.put("/admin/kb/facts", json={"facts": [{"id": "ceo", "text": "One.", **fact}]})

    assert (await save(if_version=0)).status_code == 200
    assert (await save(if_version=0)).status_code == 409
    assert (await save(if_version=None)).status_code == 200
    for bad in (-1, 2**64, "2", 2.5, True):
        refused = await save(if_version=bad)
        assert (refused.status_code, error(refused)["param"]) == (400, "facts[0].if_version")


async def test_deleting_the_version_that_was_read(service: Service) -> None:
    async def delete(version: object) -> httpx.Response:
        return await service.http.delete("/admin/kb/facts/ceo", params={"if_version": str(version)})

    await service.put(ceo="One.")
    await service.put(ceo="Two.")
    refused = await delete(1)
    assert (refused.status_code, error(refused)["code"], error(refused)["param"]) == (
        409,
        "version_conflict",
        "if_version",
    )
    for bad in (0, -1, "two"):
        assert (await delete(bad)).status_code == 400
    assert (await delete(2)).json()["version"] == 3
    assert (await delete(2)).status_code == 409


async def test_namespaces_are_apart(service: Service) -> None:
    facts = [{"id": "x", "text": "Here.", "namespace": "one"}, {"id": "x", "text": "There.", "namespace": "two"}]
    assert (await service.http.put("/admin/kb/facts", json={"facts": facts})).status_code == 200
    for namespace, text in (("one", "Here."), ("two", "There.")):
        found = await service.http.get("/admin/kb/facts/x", params={"namespace": namespace})
        assert found.json()["text"] == text
    version = (await service.http.get("/admin/kb/version")).json()
    assert version == {
        "version": 1,
        "facts": 2,
        "namespaces": {"one": 1, "two": 1},
        "tombstones": 0,
        "pages_made": 1.0,
        "access": {"read": None, "edit": None, "home": "default"},
    }


async def test_search(informed: Service) -> None:
    found = (await informed.http.post("/admin/kb/search", json={"query": QUESTION, "top_k": 2})).json()
    assert found["hits"][0]["fact"]["id"] == "ceo"
    assert found["version"] == 1
    too_many = await informed.http.post("/admin/kb/search", json={"query": "x", "top_k": 65})
    assert error(too_many)["param"] == "top_k"


async def test_diff_of_two_versions(informed: Service) -> None:
    await informed.put(ceo="The chief executive of Zorvex is Ola Nord.", bus="Buses run all night.")
    await informed.http.delete("/admin/kb/facts/tram")
    query = {"before": 1, "after": 3}
    diff = (await informed.http.get("/admin/kb/diff", params=query)).json()
    assert (diff["before"], diff["after"], diff["next_cursor"]) == (1, 3, None)
    told = {one["id"]: (one["before"] and one["before"]["text"], one["after"]) for one in diff["changes"]}
    night = {"text": "Buses run all night.", "metadata": {}, "expires_at": None}
    assert told["bus"] == (None, night)
    assert told["tram"] == (FACTS["tram"], None)
    assert told["ceo"][0] == FACTS["ceo"]
    assert told.keys() == {"bus", "ceo", "tram"}
    page = (await informed.http.get("/admin/kb/diff", params={**query, "limit": 2})).json()
    assert page["next_cursor"] == "default/ceo"
    rest = await informed.http.get("/admin/kb/diff", params={**query, "cursor": page["next_cursor"]})
    assert [one["id"] for one in rest.json()["changes"]] == ["tram"]
    for wrong, param in (({**query, "after": 4}, "version"), ({**query, "cursor": "tram"}, "cursor"), ({}, "before")):
        response = await informed.http.get("/admin/kb/diff", params=wrong)
        assert (response.status_code, error(response)["param"]) == (400, param)


async def test_history_and_rollback(informed: Service) -> None:
    await informed.put(ceo="The chief executive of Zorvex is Odd Halvorsen.")
    await informed.http.delete("/admin/kb/facts/tram")
    history = (await informed.http.get("/admin/kb/facts/ceo/history", params={"limit": 1})).json()
    assert [(entry["version"], entry["operation"]) for entry in history["versions"]] == [(2, "upsert")]
    older = await informed.http.get("/admin/kb/facts/ceo/history", params={"before": history["next_before"]})
    assert [entry["text"] for entry in older.json()["versions"]] == [FACTS["ceo"]]
    back = (await informed.http.post("/admin/kb/rollback", json={"version": 1})).json()
    assert back == {"version": 4, "upserted": 2, "deleted": 0, "visible_ms": back["visible_ms"]}
    assert (await informed.http.get("/admin/kb/facts/ceo")).json()["text"] == FACTS["ceo"]
    log = (await informed.http.get("/admin/kb/history")).json()["versions"]
    assert [(entry["version"], entry["kind"]) for entry in log] == [
        (4, "rollback"),
        (3, "edit"),
        (2, "edit"),
        (1, "edit"),
    ]
    assert (await informed.chat()).json()["knowledge"]["facts"][0]["version"] == 4
    unknown = await informed.http.post("/admin/kb/rollback", json={"version": 99})
    assert (unknown.status_code, error(unknown)["param"]) == (400, "version")
    never = await informed.http.get("/admin/kb/facts/none/history")
    assert never.status_code == 404


async def test_expired_facts_are_not_served_and_then_removed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 3600
    facts = [{"id": "ceo", "text": FACTS["ceo"], "expires_at": later}]
    await service.http.put("/admin/kb/facts", json={"facts": facts})
    assert (await service.chat()).json()["knowledge"]["facts"]
    monkeypatch.setattr(time, "time", lambda: later + 1)
    assert (await service.chat()).json()["knowledge"]["facts"] == []
    assert (await service.http.get("/admin/kb/facts/ceo")).status_code == 404
    context: Context = service.app.state.context
    await context.edits.sweep()
    assert service.store.snapshot.count() == 0
    await service.engine.audit()


async def test_read_your_writes_waits_for_the_version(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    # However slow the machine is: what counts is that the answer waits, and for what.
    async with running(build_services(tmp_path, tiny, encoder), min_version_wait_s=60) as service:
        await service.put(**FACTS)
        waiting = asyncio.create_task(service.chat(knowledge={"min_version": 2}))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await service.put(ceo="The chief executive of Zorvex is Odd Halvorsen.")
        assert (await waiting).json()["knowledge"]["version"] == 2


async def test_concurrent_edits_get_versions_of_their_own(service: Service) -> None:
    replies = await asyncio.gather(*[service.put(**{f"f{i}": f"Fact number {i}."}) for i in range(12)])
    assert sorted(reply["version"] for reply in replies) == list(range(1, 13))


async def test_a_request_that_outlives_a_delete_leaves_no_pages(informed: Service) -> None:
    """The deleted fact may have been encoded again for a request that found it before."""
    before = (await informed.chat()).json()["knowledge"]["facts"]
    assert before
    slow = asyncio.create_task(informed.chat(max_tokens=400))
    await until(lambda: informed.engine.stats().running == 1)
    for fact in FACTS:
        await informed.http.delete(f"/admin/kb/facts/{fact}")
    answer = (await slow).json()
    assert answer["knowledge"]["version"] == 1
    await informed.engine.audit()
    stats = informed.engine.stats()
    preamble = -(-len(informed.context.services.prompt.preamble) // 16)
    assert stats.pages_knowledge == preamble


async def test_an_edit_whose_pages_fail_after_it_was_committed_stays_done(
    informed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is durable and visible; its pages are made when they are first mounted."""
    plain, committed = informed.engine.encode, informed.version + 1

    async def failing(facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        await informed.context.versions.wait_for(committed, 5.0)
        raise EngineUnavailable("the engine failed")

    monkeypatch.setattr(informed.engine, "encode", failing)
    reply = await informed.put(ceo="The chief executive of Zorvex is Odd Halvorsen.")
    monkeypatch.setattr(informed.engine, "encode", plain)
    assert reply["version"] == committed
    facts = (await informed.chat()).json()["knowledge"]["facts"]
    assert committed in [fact["version"] for fact in facts]


async def test_an_edit_whose_pages_fail_before_it_was_committed_changes_nothing(
    informed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        raise EngineUnavailable("the engine failed")

    before = informed.version
    monkeypatch.setattr(informed.engine, "encode", failing)
    body = {"facts": [{"id": "ceo", "text": "The chief executive of Zorvex is Odd Halvorsen."}]}
    assert (await informed.http.put("/admin/kb/facts", json=body)).status_code == 503
    assert informed.version == before


async def test_an_edit_that_cannot_be_written_leaves_no_pages(
    informed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although its pages were being made while it was written."""

    def full(*_: object) -> None:
        raise WriteFailed("disk full")

    await informed.engine.audit()
    before, version = informed.engine.stats().pages_knowledge, informed.version
    monkeypatch.setattr(FactLog, "append", full)
    body = {"facts": [{"id": "ceo", "text": "The chief executive of Zorvex is Odd Halvorsen."}]}
    assert (await informed.http.put("/admin/kb/facts", json=body)).status_code == 503
    await informed.engine.audit()
    assert (informed.engine.stats().pages_knowledge, informed.version) == (before, version)


async def test_versions_that_are_no_longer_kept_are_gone(service: Service) -> None:
    for number in range(6):
        await service.put(ceo=f"The chief executive is number {number}.")
    store = service.context.services.store
    while store.compact(time.time() + 1):
        pass
    for response in (
        await service.http.post("/admin/kb/rollback", json={"version": 2}),
        await service.http.get("/admin/kb/diff", params={"before": 2, "after": 6}),
        await service.http.get("/admin/kb/history", params={"before": 3}),
        await service.http.get("/admin/kb/facts/ceo/history", params={"before": 3}),
    ):
        assert response.status_code == 410
        refused = error(response)
        assert (refused["type"], refused["code"]) == ("invalid_request_error", "version_gone")
        assert "the oldest version kept is 4" in refused["message"]
    listed = (await service.http.get("/admin/kb/history")).json()
    assert [one["version"] for one in listed["versions"]] == [6, 5]
    told = (await service.http.get("/admin/kb/facts/ceo/history")).json()
    assert [one["version"] for one in told["versions"]] == [6, 5, 4]
    assert (await service.http.post("/admin/kb/rollback", json={"version": 4})).json()["version"] == 7
