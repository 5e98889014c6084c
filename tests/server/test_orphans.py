"""No page outlives its fact: whatever clients drop, and however the server ended."""

from __future__ import annotations

import json
import random
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.pages import SUFFIX, page_path
from kb.encoder.minilm import MiniLMEncoder
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.pages.sharing import LOCK
from server.warmup import warm_up
from tests.server.live import Live, listening
from tests.server.support import build_services, running

TEXT = "Stop number {} has a shelter and a clock."


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {LOCK}


def dropped_put(live: Live, fact_id: str, text: str, seconds: float) -> None:
    """A PUT whose client leaves after so long."""
    body = json.dumps({"facts": [{"id": fact_id, "text": text}]}).encode()
    url = urlsplit(live.url)
    with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
        connection.sendall(
            b"PUT /admin/kb/facts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        time.sleep(seconds)


def audited(live: Live) -> None:
    """Every page in memory and on disk is of a fact that is held."""
    engine, store = live.context.services.engine, live.context.services.store
    assert isinstance(engine, EmbeddedEngine)
    live.until_idle()
    held = [live.context.pages.key(text) for text in store.snapshot.texts()]
    live.inside(lambda: engine.audit(held))


@pytest.mark.parametrize("ids", [1, 4])
def test_dropped_edits_leave_nothing(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, ids: int) -> None:
    chance = random.Random(5)
    with listening(build_services(tmp_path, tiny, encoder)) as live:
        for number in range(60):
            dropped_put(live, f"id-{number % ids}", TEXT.format(number), chance.uniform(0.001, 0.03))
        with httpx.Client(base_url=live.url) as client:
            deadline = time.monotonic() + 20
            # A commit that has begun goes on without its client.
            while live.context.metrics.in_flight._value.get() > 1 or live.context.edits._commits:
                assert time.monotonic() < deadline
                client.get("/health")
            audited(live)
            for number in range(ids):
                client.delete(f"/admin/kb/facts/id-{number}")
        audited(live)
    assert names(tmp_path / "pages") == set()


async def test_a_start_forgets_what_a_kill_left(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    """A process that dies right after a reply may not have deleted the files of what it acknowledged as deleted."""
    async with running(build_services(tmp_path, tiny, encoder)) as service:
        await service.put(held="The depot is in the north.", gone="The depot is in the south.")
        held, gone = (
            service.context.pages.key(text) for text in ("The depot is in the north.", "The depot is in the south.")
        )
    files = {key: page_path(tmp_path / "pages", key) for key in (held, gone)}
    left = files[gone].read_bytes()
    async with running(build_services(tmp_path, tiny, encoder)) as service:
        assert (await service.http.delete("/admin/kb/facts/gone")).status_code == 200
    assert not files[gone].exists()
    files[gone].write_bytes(left)
    services = build_services(tmp_path, tiny, encoder)
    async with running(services) as service:
        await warm_up(service.context)
        await service.engine.audit([held])
    assert names(tmp_path / "pages") == {f"{held}{SUFFIX}"}
