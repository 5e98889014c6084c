"""Nothing of one client stalls another: floods, large texts, bulk edits, and work whose client has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.keys import Keys, hash_key
from server.service.embedding import TEXTS_BETWEEN_STEPS
from server.service.lanes import Lane
from server.service.options import KnowledgeOptions
from server.service.prompts import Text
from tests.server.support import FACTS, MODEL, QUESTION, Service, build_services, chat_body, error, running, until

WORDS = ["amber", "basalt", "cedar", "delta", "ember", "flint", "grove", "harbour"]


def bulk(tag: str, count: int = 256) -> dict[str, Any]:
    text = " ".join(WORDS * 3)
    return {"facts": [{"id": f"{tag}{i}", "text": f"{tag} {i} {text}"} for i in range(count)]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def shared(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> AsyncIterator[Service]:
    """With two clients."""
    file = tmp_path / "keys"
    file.write_text("".join(f"{name}:{hash_key(name).hex()}\n" for name in ("greedy", "modest")))
    services = build_services(tmp_path, tiny, encoder, Keys.read(file, None))
    async with running(services, max_running=8, max_waiting=16) as service:
        yield service
        await service.engine.audit()


async def test_a_flood_of_one_key_neither_refuses_nor_delays_another(shared: Service) -> None:
    async def ask(key: str, **fields: Any) -> httpx.Response:
        body = chat_body(**fields)
        return await shared.http.post("/v1/chat/completions", json=body, headers=bearer(key))

    flood = [asyncio.create_task(ask("greedy", max_tokens=600)) for _ in range(40)]
    await until(lambda: shared.context.generations.waiting > 0)
    async with asyncio.timeout(10):
        assert [(await ask("modest")).status_code for _ in range(3)] == [200, 200, 200]
    assert shared.context.generations.waiting > 0
    refused = [one for one in flood if one.done()]
    assert {one.result().status_code for one in refused} == {429}
    for one in flood:
        one.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert (shared.context.generations.waiting, shared.context.generations.holding) == (0, 0)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat_body("word " * 300_000), "messages"),
        ("/v1/completions", {"model": MODEL, "prompt": "word " * 300_000}, "prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": [7] * 100_000}, "prompt"),
        ("/tokenize", {"prompt": "word " * 300_000}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "word " * 300_000}]}, "messages"),
        ("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": ["ok", "word " * 300_000]}, "input[1]"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_text_that_can_never_fit_is_refused_before_it_is_read(
    informed: Service, path: str, body: dict[str, Any], param: str
) -> None:
    async with busy_lanes(informed):  # nobody is there to read it
        response = await informed.http.post(path, json=body)
    assert response.status_code == 400, response.text
    assert (error(response)["code"], error(response)["param"]) == ("context_length_exceeded", param)


@asynccontextmanager
async def busy_lanes(service: Service) -> AsyncIterator[None]:
    """Keeps every thread that reads text."""
    lanes, free = service.context.lanes, threading.Event()
    busy = [asyncio.create_task(lane.run(lambda: free.wait(30))) for lane in (lanes.questions, lanes.reads) * 2]
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        free.set()
        await asyncio.gather(*busy)


async def test_small_edits_and_bare_questions_pass_bulk_edits(
    informed: Service, slow_texts: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_texts
    large = [asyncio.create_task(informed.http.put("/admin/kb/facts", json=bulk(tag))) for tag in "pq"]
    await asyncio.to_thread(begun.wait, 20)
    await informed.put(one="A single fact about the harbour.")
    assert (await informed.http.delete("/admin/kb/facts/one")).status_code == 200
    assert (await informed.chat(knowledge={"enabled": False})).status_code == 200
    assert (await informed.chat()).status_code == 200
    assert not any(one.done() for one in large)
    go_on.set()
    assert [(await one).status_code for one in large] == [200, 200]


@pytest.fixture
def slow_texts(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Many texts, or long ones, are embedded only once the second event is set; the first says that some wait."""
    embed, begun, go_on = MiniLMEncoder.embed, threading.Event(), threading.Event()

    def slowly(self: MiniLMEncoder, texts: Sequence[str]) -> Any:
        if len(texts) > TEXTS_BETWEEN_STEPS:
            begun.set()
            go_on.wait()
        return embed(self, texts)

    monkeypatch.setattr(MiniLMEncoder, "embed", slowly)
    return begun, go_on


async def test_long_texts_of_one_key_leave_another_one_its_place(
    shared: Service, slow_texts: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_texts
    model, headers = {"model": "all-minilm-l6-v2"}, bearer("greedy")
    many = [
        asyncio.create_task(shared.http.post("/v1/embeddings", json={**model, "input": WORDS}, headers=headers))
        for _ in range(12)
    ]
    try:
        await until(begun.is_set)
        await until(lambda: shared.context.reads.waiting > 0)
        async with asyncio.timeout(30):
            short = {**model, "input": "harbour"}
            answer = await shared.http.post("/v1/embeddings", json=short, headers=bearer("modest"))
        assert answer.status_code == 200
        assert not any(one.done() for one in many)
    finally:
        go_on.set()
    assert [(await one).status_code for one in many] == [200] * 12


async def test_short_questions_pass_long_ones(
    informed: Service, slow_texts: tuple[threading.Event, threading.Event]
) -> None:
    """However many of those there are, and however long they take; and what else only reads passes them as well."""
    begun, go_on = slow_texts
    http, text = informed.http, " ".join(WORDS * 300)
    long = [
        asyncio.create_task(http.post(path, json=body))
        for path, body in (
            ("/admin/kb/search", {"query": text}),
            ("/admin/kb/search", {"query": f"{text} again"}),
            ("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": WORDS}),
        )
    ]
    try:
        await until(begun.is_set)
        async with asyncio.timeout(30):
            assert (await informed.chat()).json()["knowledge"]["facts"][0]["id"] == "ceo"
            assert (await http.get("/admin/kb/facts")).status_code == 200
        assert not any(one.done() for one in long)
    finally:
        go_on.set()
    assert [(await one).status_code for one in long] == [200] * 3


@pytest.mark.parametrize("words", [3, 110], ids=["short", "long"])
async def test_a_request_holds_no_slot_while_its_questions_are_embedded(
    informed: Service, slow_texts: tuple[threading.Event, threading.Event], words: int
) -> None:
    """However many prompts it has, and nobody being there to be told apart from."""
    begun, go_on = slow_texts
    generations = informed.context.generations
    body = {"model": MODEL, "prompt": [f"{i} {' '.join(WORDS[i % 8] for i in range(words))}?" for i in range(16)]}
    many = asyncio.create_task(informed.http.post("/v1/completions", json={**body, "max_tokens": 2}))
    try:
        await until(begun.is_set)
        assert (generations.holding, generations.waiting) == (0, 16)
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(informed.chat() for _ in range(informed.context.settings.max_running)))
        assert {answer.status_code for answer in answers} == {200}
        assert not many.done()
    finally:
        go_on.set()
    answer = (await many).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(16))


async def test_a_request_holds_one_slot_while_it_is_looked_up(informed: Service) -> None:
    generations = informed.context.generations
    async with busy_lanes(informed):
        asked = asyncio.create_task(informed.chat(n=8))
        await until(lambda: generations.holding > 0)
        assert (generations.holding, generations.waiting) == (1, 7)
    assert len((await asked).json()["choices"]) == 8


@pytest.mark.parametrize("before", [{}, FACTS], ids=["nothing", "something"])
async def test_what_is_written_after_the_questions_were_embedded_is_found(
    service: Service, before: dict[str, str]
) -> None:
    if before:
        await service.put(**before)
    prompts, wanted = service.context.prompts, KnowledgeOptions()
    asked = await prompts.ask("me", [Text(QUESTION)], wanted)
    await service.put(ceo="The chief executive of Zorvex is somebody else.")
    (prompt,) = await prompts.make("me", [Text(QUESTION)], wanted, asked)
    assert prompt.retrieved is not None
    assert (prompt.retrieved.version, prompt.retrieved.hits[0].fact.version) == (service.version, service.version)


async def test_a_bulk_edit_whose_client_left_stops_and_leaves_nothing(
    informed: Service, slow_texts: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_texts
    await informed.engine.audit()
    before, version = informed.engine.stats(), informed.version
    large = asyncio.create_task(informed.http.put("/admin/kb/facts", json=bulk("p")))
    await asyncio.to_thread(begun.wait, 20)
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    go_on.set()
    await informed.put(one="A single fact about the harbour.")
    await informed.http.delete("/admin/kb/facts/one")
    await until(lambda: informed.engine.stats().pages_knowledge == before.pages_knowledge)
    await informed.engine.audit()
    assert informed.engine.stats().facts_encoded - before.facts_encoded <= 1
    assert informed.version == version + 2


async def test_a_job_whose_client_has_gone_is_not_run(informed: Service) -> None:
    metrics, free = informed.context.metrics, threading.Event()
    lane, ran = Lane("test", 1, metrics), []
    running_job = asyncio.create_task(lane.run(lambda: free.wait(10)))
    gone = asyncio.create_task(lane.run(lambda: ran.append("gone")))
    stays = asyncio.create_task(lane.run(lambda: ran.append("stays")))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    free.set()
    await asyncio.gather(running_job, stays)
    lane.close()
    assert ran == ["stays"]
    assert metrics.registry.get_sample_value("kalmagrove_jobs_dropped_total", {"lane": "test"}) == 1


async def test_choices_are_admitted_one_by_one(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    """A request with more choices than there are slots takes its turns, and gets what it would get alone."""
    fields: dict[str, Any] = {"n": 5, "temperature": 1, "seed": 7, "max_tokens": 12}
    texts = []
    for slots in (2, 8):
        directory = tmp_path / str(slots)
        async with running(build_services(directory, tiny, encoder), max_running=slots) as service:
            await service.put(**FACTS)
            answer = await service.chat(**fields)
            texts.append([choice["message"]["content"] for choice in answer.json()["choices"]])
            await service.engine.audit()
    assert texts[0] == texts[1]
