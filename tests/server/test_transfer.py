"""Import and export as NDJSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
from starlette.types import Message

from server.service.admission import Key
from server.services import EXPORTS
from tests.server.support import FACTS, Service, error, until

NDJSON = {"Content-Type": "application/x-ndjson"}


async def send(service: Service, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    return await service.http.post("/admin/kb/import", content=content, headers=NDJSON)


def fact_line(number: int, text: str = "") -> bytes:
    return json.dumps({"id": f"f{number:04}", "text": text or f"Fact number {number}."}).encode() + b"\n"


async def test_export_is_what_import_takes(informed: Service) -> None:
    exported = await informed.http.get("/admin/kb/export")
    assert exported.headers["x-knowledge-version"] == "1"
    assert {json.loads(line)["id"] for line in exported.text.splitlines()} == set(FACTS)
    for fact in FACTS:
        await informed.http.delete(f"/admin/kb/facts/{fact}")
    assert (await informed.http.get("/admin/kb/export")).text == ""
    (last,) = (await send(informed, exported.content)).text.splitlines()
    assert json.loads(last) == {"version": 5, "imported": 3, "done": True}
    assert (await informed.http.get("/admin/kb/export")).content == exported.content


async def test_large_edits_are_timed_apart_from_small_ones(informed: Service) -> None:
    await send(informed, b"".join(map(fact_line, range(6))))
    sample = informed.context.metrics.registry.get_sample_value
    counts = [sample("kalmagrove_edit_visible_seconds_count", {"size": size}) for size in ("small", "large")]
    assert counts == [1, 1]


async def test_body_may_be_cut_anywhere(service: Service) -> None:
    body = b"".join(fact_line(number) for number in range(150))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 997):
            yield body[start : start + 997]

    reply = json.loads((await send(service, pieces())).text.splitlines()[-1])
    assert (reply["imported"], reply["done"]) == (150, True)
    assert service.store.snapshot.count() == 150
    assert reply["version"] == service.version


async def test_an_error_names_the_line_and_what_was_committed_before(service: Service) -> None:
    lines = [fact_line(number, "x" * 200) for number in range(400)]
    lines[390] = b'{"id": "bad id", "text": "x"}\n'
    response = await send(service, b"".join(lines))
    body = json.loads(response.text.splitlines()[-1])
    assert body["error"]["message"].startswith("line 391")
    assert body["error"]["param"] == "id"
    assert 0 < body["imported"] < 390
    assert service.store.snapshot.count() == body["imported"]


async def test_bad_lines_change_nothing(service: Service) -> None:
    for content, param in (
        (b"not json", None),
        (b'{"id": "a", "text": "x", "colour": 1}', "colour"),
        (b'{"id": "a"}', "text"),
        (b'{"id": "a", "text": "' + b"word " * 400 + b'"}', "text"),
        (b'{"id": "a", "text": NaN}', None),
        (b'\xff{"id": "a", "text": "x"}', None),
        (b'{"id": "a", "text": "' + b"x" * 70_000 + b'"}', None),
        (b'{"id": "a", "text": "x", "expires_at": 5}', "expires_at"),
    ):
        response = await send(service, content)
        assert response.status_code == 400, content[:40]
        assert response.json()["error"]["param"] == param
        assert response.json()["imported"] == 0
    absent = await send(service, b'{"op": "delete", "id": "nobody"}')
    assert absent.status_code == 404
    other = await service.http.post("/admin/kb/import", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (other.status_code, error(other)["code"]) == (415, "unsupported_media_type")
    assert service.version == 0
    await service.engine.audit()


async def test_one_import_at_a_time_of_each_caller(service: Service) -> None:
    async with service.context.imports.enter(Key("somebody else")):
        assert (await send(service, fact_line(1))).status_code == 200
    async with service.context.imports.enter(Key("local")):
        response = await send(service, fact_line(2))
    assert response.status_code == 429
    assert response.headers["retry-after"]


async def test_exports_that_nobody_reads_hold_up_no_reads(informed: Service) -> None:
    """A byte a second would do: each of them lasts as long as its client likes."""
    unread = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await unread.wait()

    async def receive() -> Message:
        await unread.wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/admin/kb/export",
        "query_string": b"",
        "http_version": "1.1",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "scheme": "http",
    }
    slow = [asyncio.create_task(informed.app(dict(scope), receive, send)) for _ in range(EXPORTS.per_caller)]
    try:
        await until(lambda: informed.context.exports.holding == len(slow))
        refused = await informed.http.get("/admin/kb/export")
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
        assert informed.context.reads.holding == 0
        assert (await informed.http.post("/admin/kb/search", json={"query": "x"})).status_code == 200
    finally:
        unread.set()
        await asyncio.gather(*slow)
    assert informed.context.exports.holding == 0
