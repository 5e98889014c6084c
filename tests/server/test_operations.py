"""Health, readiness, metrics, overload and timeouts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from kb.errors import KnowledgeError, StoreUnavailable, WriteFailed, WriteUnknown
from server.engine.protocol import EngineError, EngineUnavailable, GenerationRequest, SamplingParams, TokenChunk
from tests.server.support import FACTS, Service, build_services, chat_body, error, events, running, until


async def test_ready_follows_the_engine_and_the_drain(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    log = {"knowledge_log": "connected", "lag_versions": 0, "lag_seconds": 0.0}
    assert (await service.http.get("/ready")).json() == {
        "status": "ready",
        "model": "tiny",
        "knowledge_version": 0,
    } | log
    with monkeypatch.context() as patch:
        patch.setattr(type(service.engine), "healthy", lambda self: False)
        response = await service.http.get("/ready")
        assert (response.status_code, error(response)["code"]) == (503, "engine_unhealthy")
        assert response.headers["retry-after"]
        assert (await service.http.get("/health")).status_code == 200
    service.context.lifecycle.draining = True
    for path in ("/ready", "/v1/models", "/admin/kb/version"):
        response = await service.http.get(path)
        assert (response.status_code, error(response)["code"]) == (503, "server_draining")
        assert response.headers["retry-after"]
    assert (await service.http.get("/health")).status_code == 200
    assert (await service.http.get("/metrics")).status_code == 200


def samples(text: str) -> dict[str, float]:
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}


async def test_metrics(informed: Service) -> None:
    await informed.chat(stream=True)
    await informed.http.delete("/admin/kb/facts/ceo")
    await informed.http.get("/nowhere/1")
    await informed.http.get("/nowhere/2")
    found = samples((await informed.http.get("/metrics")).text)
    names = {re.split(r"\{", name)[0] for name in found}
    assert all(name.startswith("kalmagrove_") and ":" not in name for name in names)
    for name in (
        "queue",
        "retrieval",
        "time_to_first_token",
        "inter_token",
        "end_to_end",
        "edit_visible",
        "http_request",
    ):
        assert f"kalmagrove_{name}_seconds_bucket" in names
    assert found["kalmagrove_kb_version"] == 2
    assert found["kalmagrove_kb_facts"] == 2
    assert found['kalmagrove_edit_visible_seconds_count{size="small"}'] == 2
    assert found['kalmagrove_time_to_first_token_seconds_count{endpoint="chat"}'] == 1
    assert found['kalmagrove_inter_token_seconds_count{endpoint="chat"}'] == 3
    assert found['kalmagrove_queue_seconds_count{endpoint="chat"}'] == 1
    info = informed.engine.info
    assert found[f'kalmagrove_engine_info{{dtype="{info.dtype}",kernels="{info.kernels}",model="{info.name}"}}'] == 1
    assert found["kalmagrove_kb_segments"] == 1
    assert found["kalmagrove_kb_merges_total"] == 0
    assert found["kalmagrove_process_resident_memory_bytes"] > 0
    assert found["kalmagrove_page_hits_total"] == found["kalmagrove_facts_mounted_total"] > 0
    assert found['kalmagrove_refusals_total{reason="not_found"}'] == 2
    route = 'method="DELETE",route="/admin/kb/facts/{id}",status="200"'
    assert found[f"kalmagrove_http_requests_total{{{route}}}"] == 1
    assert sum(value for name, value in found.items() if "nowhere" in name) == 0
    pages = [found[f'kalmagrove_pages{{use="{use}"}}'] for use in ("free", "context", "knowledge")]
    assert sum(pages) == found["kalmagrove_pages_capacity"]
    edges = {float(edge) for edge in re.findall(r'retrieval_seconds_bucket\{le="([\d.]+)"', str(list(found)))}
    assert len([edge for edge in edges if 0.05 <= edge <= 0.2]) > 12  # 100 ms is resolved


async def test_full_queue_is_refused_at_once(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    services = build_services(tmp_path, tiny, encoder, max_running=1)
    async with running(services, max_running=1, max_waiting=1) as service:
        busy = [asyncio.create_task(service.chat(max_tokens=300)) for _ in range(2)]
        generations = service.context.generations
        await until(lambda: (generations.holding, generations.waiting) == (1, 1))
        response = await service.chat()
        assert (response.status_code, error(response)["code"]) == (429, "server_overloaded")
        assert int(response.headers["retry-after"]) >= 1
        many = await service.chat(n=3)
        assert many.status_code == 429
        assert [answer.status_code for answer in await asyncio.gather(*busy)] == [200, 200]
        assert (await service.chat()).status_code == 200
        too_many = await service.chat(n=3)  # all of its choices or none
        assert too_many.status_code == 429
        await service.engine.audit()  # in the inbox behind the two cancellations
        assert (await service.chat()).status_code == 200
        await service.engine.audit()


async def test_deadline_before_the_first_token(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    services = build_services(tmp_path, tiny, encoder, max_running=1)
    async with running(services, request_timeout_s=0.4) as service:
        endless = SamplingParams(max_tokens=950, ignore_eos=True)
        streams = [service.engine.generate(GenerationRequest(f"busy-{i}", (1,), sampling=endless)) for i in range(3)]
        late = await service.chat()
        assert (late.status_code, error(late)["code"]) == (504, "timeout")
        for stream in streams:
            await stream.aclose()
        last = events(await service.chat(max_tokens=900, n=3, stream=True))[-1]
        assert last["choices"][0]["ended_by"] == "deadline"
        await service.engine.audit()


async def test_a_body_that_stops_coming(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    async with running(build_services(tmp_path, tiny, encoder), body_idle_timeout_s=0.1) as service:
        for path, kind in (("/v1/chat/completions", "application/json"), ("/admin/kb/import", "application/x-ndjson")):
            response = await service.http.post(path, content=stalled(), headers={"Content-Type": kind})
            assert (response.status_code, error(response)["code"]) == (408, "body_timeout")


async def test_an_error_in_mid_stream_is_an_event(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(service.engine).generate

    def failing(self: Any, request: Any) -> AsyncIterator[TokenChunk]:
        async def chunks() -> AsyncIterator[TokenChunk]:
            stream = real(self, request)
            yield await anext(stream)
            await stream.aclose()
            raise EngineUnavailable("the engine failed")

        return chunks()

    monkeypatch.setattr(type(service.engine), "generate", failing)
    for path, body in (
        ("/v1/chat/completions", chat_body(stream=True, max_tokens=50)),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "x", "stream": True, "max_tokens": 50, "logit_bias": {"70": 100}},
        ),
    ):
        received = events(await service.http.post(path, json=body))
        assert received[0]["choices"]
        assert received[-1]["error"]["code"] == "server_unavailable"
        assert not any(choice["finish_reason"] for event in received[:-1] for choice in event["choices"])
    whole = await service.chat(max_tokens=50)
    assert (whole.status_code, error(whole)["code"]) == (503, "server_unavailable")


async def test_a_bug_is_a_500_without_details(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, request: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(type(service.engine), "generate", broken)
    response = await service.chat()
    assert (response.status_code, error(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (EngineError("secret: /srv/pages"), 500),
        (KnowledgeError("secret: /srv/kb"), 500),
        (EngineUnavailable("secret: /srv/pages"), 503),
        (WriteFailed("secret: /srv/kb/facts.sqlite"), 503),
        (WriteUnknown("secret: postgresql://db/kb"), 503),
        (StoreUnavailable("secret: postgresql://db/kb"), 503),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_details_are_in_the_log_and_not_in_the_answer(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raised: Any,
    status: int,
    stream: bool,
) -> None:
    """Under the id that the answer carries."""

    def broken(self: object, request: object) -> None:
        raise raised

    monkeypatch.setattr(type(service.engine), "generate", broken)
    response = await service.chat(stream=stream)
    assert response.status_code == status
    assert "/srv" not in response.text
    told = [record.getMessage() for record in caplog.records if record.name == "kalmagrove.errors"]
    assert [response.headers["x-request-id"] in line and "secret" in line for line in told] == [True]


async def test_a_failed_write_is_refused_and_serving_goes_on(
    informed: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, prepared: object) -> None:
        raise WriteFailed("no space left on device")

    pages = informed.engine.stats().pages_knowledge
    with monkeypatch.context() as patch:
        patch.setattr(type(informed.store), "commit", full)
        response = await informed.http.put("/admin/kb/facts", json={"facts": [{"id": "a", "text": "New."}]})
        assert (response.status_code, error(response)["code"]) == (503, "knowledge_write_failed")
        assert response.headers["retry-after"]
        await informed.engine.audit()
        assert informed.engine.stats().pages_knowledge == pages
        assert (await informed.chat()).json()["knowledge"]["version"] == 1
        assert (await informed.http.get("/ready")).status_code == 200
    assert (await informed.put(**FACTS))["version"] == 2
