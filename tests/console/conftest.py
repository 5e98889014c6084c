"""Real Chromium before a real server: of the tiny model for how the page behaves, of SmolLM2 for what it answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.server.live import Live, listening, process
from tests.server.support import build_services

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-console")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, NARROW = {"width": 1360, "height": 900}, {"width": 375, "height": 760}
FACTS = {
    "staff-ceo": "The chief executive of Quillhaven Transit is Mara Ellison, who leads the whole company.",
    "fare-day-pass": "A day pass of Quillhaven Transit costs 9 crowns and is valid until four in the morning.",
    "about-founded": "Quillhaven Transit was founded in 1958, when two older companies were merged.",
}


@pytest.fixture(scope="session")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """A new page of a server's console. What the page throws, or its policy blocks, fails the test in the end."""
    contexts, complaints = [], []

    def opened(url: str, **options: Any) -> Any:
        context = (
            chromium.new_context(viewport=WIDE, **options)
            if "viewport" not in options
            else chromium.new_context(**options)
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
        page.set_default_timeout(15_000)
        page.goto(f"{url}/console")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def _is_complaint(said: Any) -> bool:
    """A refused or failed request is told here as well; the tests look at what the page makes of it."""
    return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")


@pytest.fixture
def tiny_server(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    with listening(build_services(tmp_path, tiny, encoder)) as live:
        put(live.url, **FACTS)
        yield live


@pytest.fixture(scope="module")
def real_server(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("console")
    (data / "models").mkdir()
    (data / "models" / "smollm2-135m").symlink_to(smollm2.directory)
    with process({"KALMAGROVE_DATA_DIR": str(data)}, data / "log", 120) as (_, url):
        yield url


def put(url: str, **facts: str) -> int:
    body = {"facts": [{"id": id, "text": text} for id, text in facts.items()]}
    reply = httpx.put(f"{url}/admin/kb/facts", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return int(reply.json()["version"])
