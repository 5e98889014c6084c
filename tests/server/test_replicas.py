"""Two servers on one log in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.cut import Proxy, proxied
from tests.server.support import FACTS, QUESTION, Service, build_services, error, running, until

NEW = "The chief executive of Zorvex is Jonas Wetherby."


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def one(stack: AsyncExitStack, tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, url: str) -> Service:
    services = build_services(tmp_path / "one", tiny, encoder, knowledge_url=url)
    return await stack.enter_async_context(running(services, min_version_wait_s=20.0))


@pytest.fixture
def proxy(stack: AsyncExitStack, url: str) -> Proxy:
    return stack.enter_context(proxied(url))


@pytest.fixture
async def other(
    stack: AsyncExitStack, tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, proxy: Proxy
) -> Service:
    """Its way to the log may be cut."""
    services = build_services(tmp_path / "other", tiny, encoder, knowledge_url=proxy.url)
    return await stack.enter_async_context(running(services, min_version_wait_s=20.0))


async def test_an_edit_at_one_is_read_at_the_other(one: Service, other: Service) -> None:
    """By whoever names its version, and with pages like one of its own."""
    made = await one.put(**FACTS)
    answer = (await other.chat(knowledge={"min_version": made["version"]})).json()
    assert answer["knowledge"]["version"] == 1
    assert "ceo" in [fact["id"] for fact in answer["knowledge"]["facts"]]
    await until(lambda: all(other.context.pages.made(text) for text in FACTS.values()))
    changed = await one.put(ceo=NEW)
    found = await other.http.post("/admin/kb/search", json={"query": QUESTION, "min_version": changed["version"]})
    assert NEW in [hit["fact"]["text"] for hit in found.json()["hits"]]
    await until(lambda: other.context.pages.made(NEW))
    await until(lambda: not other.context.pages.made(FACTS["ceo"]))
    fact = {"id": "ceo", "text": FACTS["ceo"], "if_version": changed["version"]}
    assert (await other.http.put("/admin/kb/facts", json={"facts": [fact]})).json()["version"] == 3
    refused = await one.http.put("/admin/kb/facts", json={"facts": [fact]})
    assert (refused.status_code, error(refused)["param"]) == (409, "facts[0].if_version")


async def measured(service: Service, name: str) -> float:
    lines = (await service.http.get("/metrics")).text.splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"kalmagrove_{name} ")]
    return float(value)


def refused(response: httpx.Response, code: str) -> None:
    assert (response.status_code, error(response)["code"]) == (503, code)
    assert int(response.headers["retry-after"]) >= 1


async def test_a_server_that_lost_the_log_goes_on_answering(one: Service, other: Service, proxy: Proxy) -> None:
    await one.put(**FACTS)
    await until(lambda: other.version == 1)
    assert await measured(other, "knowledge_log_connected") == 1
    assert await measured(other, "knowledge_followed_total") == 1
    proxy.closed = True
    proxy.drop()
    await until(lambda: other.store.log_state.contact == "lost")
    ready = await other.http.get("/ready")
    assert (ready.status_code, ready.json()["knowledge_log"]) == (200, "lost")
    assert await measured(other, "knowledge_log_connected") == 0
    assert await measured(other, "knowledge_lag_seconds") > 0
    answer = (await other.chat()).json()
    assert "ceo" in [fact["id"] for fact in answer["knowledge"]["facts"]]
    facts = {"facts": [{"id": "ceo", "text": NEW}]}
    refused(await other.http.put("/admin/kb/facts", json=facts), "knowledge_unavailable")
    refused(await other.http.delete("/admin/kb/facts/ceo"), "knowledge_unavailable")
    refused(await other.http.post("/admin/kb/rollback", json={"version": 0}), "knowledge_unavailable")
    refused(await other.http.get("/admin/kb/history"), "knowledge_unavailable")
    await one.put(ceo=NEW)
    proxy.closed = False
    answer = (await other.chat(knowledge={"min_version": 2})).json()
    assert answer["knowledge"]["version"] == 2
    await until(lambda: other.store.log_state.contact == "connected")
    assert (await other.http.put("/admin/kb/facts", json=facts)).json()["version"] == 3
    assert await measured(other, "knowledge_lag_versions") == 0
