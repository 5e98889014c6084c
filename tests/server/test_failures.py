"""A dead or hung engine, a sweeper that fails, an end that fails half-way: what was done is acknowledged, what was
refused has not happened."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.edit import Commit, Prepared
from kb.encoder.minilm import MiniLMEncoder
from kb.errors import StoreClosed
from kb.facts import Delete
from server.engine.protocol import TokenChunk
from server.service.deadline import cut_at
from server.service.errors import Overloaded
from server.service.versions import Versions
from tests.server.support import FACTS, Service, build_services, chat_body, error, events, running, until


async def test_with_a_dead_engine_an_edit_is_refused_or_done(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder
) -> None:
    async with running(build_services(tmp_path, tiny, encoder)) as service:
        await service.put(**FACTS)
        await service.engine.aclose()
        body = {"facts": [{"id": "new", "text": "Something new."}]}
        many = {"facts": [{"id": f"new{i}", "text": f"Something new, {i}."} for i in range(20)]}
        assert (await service.http.put("/admin/kb/facts", json=body)).status_code == 503
        assert service.version == 1
        later = await service.http.put("/admin/kb/facts", json=many)  # its pages are not waited for
        assert (later.status_code, service.version) == (200, 2)
        gone = await service.http.delete("/admin/kb/facts/ceo")
        assert (gone.status_code, service.version) == (200, 3)
        back = await service.http.post("/admin/kb/rollback", json={"version": 1})
        assert (back.status_code, service.version) == (200, 4)
        await service.context.edits.sweep()
        assert service.context.metrics.registry.get_sample_value("kalmagrove_sweep_failures_total") == 0


async def test_a_hung_step_is_a_504_at_the_deadline(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    free = threading.Event()
    async with running(build_services(tmp_path, tiny, encoder), request_timeout_s=0.5) as service:
        hung = asyncio.create_task(service.engine.run(lambda: free.wait(30)))
        try:
            async with asyncio.timeout(15):
                answers = await asyncio.gather(
                    service.chat(),
                    service.chat(knowledge={"enabled": False}),
                    service.http.put("/admin/kb/facts", json={"facts": [{"id": "a", "text": "New."}]}),
                )
        finally:
            free.set()
            await hung
        assert [(answer.status_code, error(answer)["code"]) for answer in answers] == [(504, "timeout")] * 3
        assert service.version == 0
        assert (service.context.generations.waiting, service.context.generations.holding) == (0, 0)
        await service.engine.audit()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_said_before_the_deadline_is_the_answer(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, stream: bool
) -> None:
    """Of an engine that hangs, too: with what there is, told apart from an answer that has its length by itself."""
    free = threading.Event()
    async with running(build_services(tmp_path, tiny, encoder), request_timeout_s=1.5) as service:
        body = chat_body(max_tokens=900, n=2, stream=stream)
        asked = asyncio.create_task(service.http.post("/v1/chat/completions", json=body))
        await until(lambda: service.engine.stats().generated_tokens > 3)
        hung = asyncio.create_task(service.engine.run(lambda: free.wait(30)))
        try:
            async with asyncio.timeout(15):
                answer = await asked
        finally:
            free.set()
            await hung
        chunks = events(answer) if stream else [answer.json()]
        last = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
        assert [(choice["finish_reason"], choice["ended_by"]) for choice in last] == [("length", "deadline")] * 2
        told = [choice.get("delta", choice.get("message")) for chunk in chunks for choice in chunk["choices"]]
        assert any(part.get("content") for part in told)
        assert (service.context.generations.waiting, service.context.generations.holding) == (0, 0)
        await service.engine.audit()


@pytest.mark.parametrize(("patience_s", "told"), [(60.0, 9), (0.0, 2)])
async def test_who_reads_slowly_has_not_for_ever(patience_s: float, told: int) -> None:
    """What came before the deadline waits for its reader, but not as long as a byte a second takes."""

    async def chunks() -> AsyncGenerator[tuple[int, TokenChunk], None]:
        for number in range(9):
            yield 0, TokenChunk(text="x", token_ids=(1,), finish_reason="stop" if number == 8 else None)

    deadline = time.monotonic() - 0.01
    found = [chunk async for _, chunk in cut_at(chunks(), deadline, 1, patience_s)]
    assert len(found) == told
    assert [found[-1].finish_reason, found[-1].timed_out] == (["stop", False] if told == 9 else ["length", True])


async def test_an_edit_that_fails_after_its_client_has_gone_is_no_warning(
    informed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    plain = informed.store.commit
    committing, gone = threading.Event(), threading.Event()

    def slow(prepared: Prepared) -> Commit:
        committing.set()
        gone.wait(10)
        return plain(prepared)

    monkeypatch.setattr(informed.store, "commit", slow)
    edit = asyncio.create_task(informed.context.edits.apply("a", [Delete("nobody", "default")]))
    await until(committing.is_set)
    edit.cancel()
    await asyncio.wait([edit])
    others = asyncio.all_tasks() - {asyncio.current_task()}
    gone.set()
    await until(lambda: not any("_commit_whole" in repr(task) for task in others if not task.done()))
    others.clear()
    del edit
    gc.collect()
    assert reported == []


async def test_the_sweeper_survives_whatever_happens(informed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 0

    def broken(now: float) -> None:
        nonlocal failures
        failures += 1
        raise RuntimeError("not a KnowledgeError")

    monkeypatch.setattr(informed.store, "sweep_expired", broken)
    sweeping = asyncio.create_task(informed.context.edits.keep_sweeping(0.01))
    await until(lambda: failures > 3)
    assert not sweeping.done()
    sweeping.cancel()
    assert (informed.context.metrics.registry.get_sample_value("kalmagrove_sweep_failures_total") or 0) >= 2


async def test_the_store_is_closed_whatever_fails_before(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = build_services(tmp_path, tiny, encoder)
    plain = services.engine.aclose

    async def broken() -> None:
        await plain()
        raise RuntimeError("the engine's thread will not end")

    monkeypatch.setattr(services.engine, "aclose", broken)
    with pytest.raises(RuntimeError, match="will not end"):
        async with running(services):
            pass
    with pytest.raises(StoreClosed):
        services.store.apply([Delete("a", "default")])


async def test_few_may_wait_for_a_version(informed: Service) -> None:
    versions = Versions(informed.store, max_waiting=2)
    waiting = [asyncio.create_task(versions.wait_for(2, 30)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await versions.wait_for(2, 30)
    await informed.put(one="Something new.")
    await asyncio.gather(*waiting)
