"""Every line in one form, one access record per request, and nowhere a word of a request, a fact or a key."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import TokenChunk
from server.http.keys import KeyFile, Keys, hash_key
from server.logs import LogFormat, formatter, log_loop_failures
from tests.server.live import process, start
from tests.server.support import Service, build_services, chat_body, running
from tests.server.test_process import environment

__all__ = ["environment"]
CANARY = "nightjar"
"""In every text, id, name and key of these tests."""
KEY = f"kg-{CANARY}"
BEARER = {"Authorization": f"Bearer {KEY}"}


class Lines(logging.Handler):
    """What would have been written. The client of these tests logs as well, and is left out."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(formatter(form))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore")):
            self.lines.append(self.format(record))

    def records(self, logger: str) -> list[dict[str, Any]]:
        return [record for record in map(json.loads, self.lines) if record["logger"] == logger]


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    handler, root = Lines(getattr(request, "param", "json")), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.fixture
async def keyed(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> AsyncIterator[Service]:
    """One key opens everything."""
    path = tmp_path / "keys"
    path.write_text(f"ann:{hash_key(KEY).hex()}\n")
    keys = Keys(client=KeyFile(path), admin=KeyFile(path))
    async with running(build_services(tmp_path, tiny, encoder, keys), max_fact_tokens=100) as service:
        service.http.headers.update(BEARER)
        yield service


async def use_everything(service: Service) -> None:
    """With the canary wherever a client can write something."""
    http, fact = service.http, {"id": CANARY, "text": f"The {CANARY} sings at night.", "metadata": {CANARY: CANARY}}
    ndjson = {"Content-Type": "application/x-ndjson"}
    await http.put("/admin/kb/facts", json={"facts": [fact]})
    await http.put("/admin/kb/facts", json={"facts": [{**fact, "text": CANARY * 100}, {**fact, CANARY: 1}]})
    await http.put("/admin/kb/facts", json={"facts": [{**fact, "text": CANARY * 100}]})
    await http.post("/admin/kb/import", content=json.dumps(fact) + f"\n{CANARY}\n", headers=ndjson)
    for path in (f"/admin/kb/facts/{CANARY}", f"/admin/kb/facts/{CANARY}/history", f"/{CANARY}", "/admin/kb/export"):
        await http.get(path)
    await http.get("/admin/kb/facts", params={"namespace": CANARY, "cursor": CANARY})
    await http.get("/admin/kb/facts", params={CANARY: CANARY})
    await http.post("/admin/kb/search", json={"query": CANARY, "namespace": CANARY})
    for stream in (False, True):
        await service.chat(f"What does the {CANARY} do?", stream=stream)
        await http.post("/v1/completions", json={"model": "tiny", "prompt": CANARY, "stream": stream, "stop": CANARY})
    await service.chat(CANARY, model=CANARY)
    await service.chat(CANARY, **{CANARY: CANARY})
    await service.chat(CANARY * 500)
    await http.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": CANARY})
    await http.post("/tokenize", json={"model": "tiny", "prompt": CANARY})
    await http.post("/v1/chat/completions", content=f'{{"{CANARY}', headers={"Content-Type": "application/json"})
    await http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}-wrong"})
    await http.get("/v1/models", headers={"User-Agent": CANARY, "Cookie": CANARY})
    await http.delete(f"/admin/kb/facts/{CANARY}")


async def break_everything(service: Service, patch: pytest.MonkeyPatch) -> None:
    """Bugs whose exceptions quote what they were given."""

    def quoting(*given: object, **more: object) -> Any:
        try:
            raise KeyError(f"{given} {more} {CANARY}")
        except KeyError as error:
            raise RuntimeError(f"{given} {more} {CANARY}") from error

    def breaking_off(engine: object, request: object) -> AsyncIterator[TokenChunk]:
        async def chunks() -> AsyncIterator[TokenChunk]:
            yield TokenChunk(CANARY, (1,))
            quoting(request)

        return chunks()

    fact = {"facts": [{"id": CANARY, "text": CANARY}]}
    for name, wrong in (("generate", quoting), ("generate", breaking_off), ("run", quoting)):
        with patch.context() as broken:
            broken.setattr(type(service.engine), name, wrong)
            for stream in (False, True):
                await service.chat(CANARY, stream=stream)
            await service.http.put("/admin/kb/facts", json=fact)
    for method in ("commit", "sweep_expired"):
        with patch.context() as broken:
            broken.setattr(type(service.store), method, quoting)
            await service.http.put("/admin/kb/facts", json=fact)
            await service.context.edits.sweep()
    service.store.subscribe(quoting)
    await service.http.put("/admin/kb/facts", json=fact)
    loop = asyncio.get_running_loop()
    log_loop_failures(loop)
    loop.call_soon(quoting, CANARY)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("lines", ["text", "json"], indirect=True)
async def test_nothing_of_a_request_is_logged(keyed: Service, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    await use_everything(keyed)
    await break_everything(keyed, monkeypatch)
    assert len(lines.lines) > 40
    assert sum("RuntimeError" in line for line in lines.lines) >= 8
    assert sum("KeyError" in line for line in lines.lines) >= 4
    assert [line for line in lines.lines if CANARY in line or hash_key(KEY).hex() in line] == []


async def test_one_access_record_per_request(keyed: Service, lines: Lines) -> None:
    await keyed.put(bird="The bird sings at night.")
    answer = await keyed.chat("Does the bird sing at night?", stream=True)
    await keyed.http.get("/admin/kb/facts/bird")
    await keyed.http.get("/nowhere")
    await keyed.http.get("/v1/models", headers={"Authorization": "Bearer other", "X-Request-Id": "mine"})
    put, chat, got, nowhere, refused = lines.records("kalmagrove.access")
    assert (put["route"], put["method"], put["status"], put["knowledge_version"]) == ("/admin/kb/facts", "PUT", 200, 1)
    assert "ttft_ms" not in put
    assert chat["request_id"] == answer.headers["x-request-id"]
    assert (chat["route"], chat["status"], chat["key_name"]) == ("/v1/chat/completions", 200, "ann")
    assert (chat["knowledge_version"], chat["facts_mounted"]) == (1, 1)
    assert 0 < chat["ttft_ms"] < chat["total_ms"]
    assert got["route"] == "/admin/kb/facts/{id}"
    assert (nowhere["route"], nowhere["status"]) == ("none", 404)
    assert (refused["status"], refused["request_id"]) == (401, "mine")
    assert "key_name" not in refused
    assert all(record["level"] == "INFO" and record["timestamp"].endswith("+00:00") for record in (put, chat))


@given(st.text(min_size=12, alphabet=st.characters(codec="utf-8", categories=["L"], min_codepoint=0x370)))
def test_exceptions_are_told_without_what_they_say(secret: str) -> None:
    """However they are linked."""

    def raised() -> Exception:
        try:
            try:
                raise OSError(28, "No space left on device", secret)
            except OSError as error:
                raise ValueError(secret) from error
        except ValueError as first:
            try:
                raise ExceptionGroup(secret, [first, UnicodeError(secret)])
            except ExceptionGroup as second:
                second.add_note(secret)
                return second

    error = raised()
    for form in ("text", "json"):
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, error.__traceback__)})
        record.exc_text = secret  # as another handler's formatter leaves it
        line = formatter(form).format(record)
        assert secret not in line
        assert secret not in json.loads(line)["exception"] if form == "json" else True
        for told in ("ValueError", "UnicodeError", "ExceptionGroup", "No space left on device", "in raised"):
            assert told in line


def test_every_line_of_a_process_is_json(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process({**environment, "KALMAGROVE_LOG_FORMAT": "json"}, log) as (child, url):
        httpx.post(f"{url}/v1/chat/completions", json=chat_body())
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    serving = next(record for record in records if record["message"] == "serving")
    assert (serving["url"], serving["model"], serving["keys"]) == (url, "tiny", False)
    assert {"kalmagrove.access", "uvicorn.error"} <= {record["logger"] for record in records}
    assert all({"timestamp", "level", "message"} <= record.keys() for record in records)


def test_so_is_the_reason_why_it_does_not_start(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start({**environment, "KALMAGROVE_LOG_FORMAT": "json", "KALMAGROVE_MODEL": "absent"}, log)
    assert child.wait(60) == 1
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["level"] == "CRITICAL"
    assert "absent" in json.loads(line)["message"]
