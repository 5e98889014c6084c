"""Real Prometheus scrapes a loaded server of the shipped model: no rule and no panel asks in vain.

KALMAGROVE_TEST_ENGINE=vllm has vLLM serve; KALMAGROVE_PICTURES names a directory for pictures of the dashboards.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.grafana.generate import DIRECTORY
from deploy.grafana.pictures import draw
from kan.checkpoint.directory import Checkpoint
from server.http.keys import hash_key
from tests.deploy.expressions import asked
from tests.deploy.load import load
from tests.deploy.prometheus import Prometheus, scraping
from tests.server.live import process

ENGINE = os.environ.get("KALMAGROVE_TEST_ENGINE", "embedded")
START_SECONDS = 240.0
LOAD_SECONDS = 75.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]


@pytest.fixture(scope="module")
def watched(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Under load until the last test has asked."""
    directory = tmp_path_factory.mktemp("watched")
    (directory / "models").mkdir()
    (directory / "models" / "smollm2-135m").symlink_to(smollm2.directory)
    client_key, admin_key = _key(directory, "client"), _key(directory, "admin")
    settings = {
        "KALMAGROVE_DATA_DIR": str(directory),
        "KALMAGROVE_ENGINE": ENGINE,
        "KALMAGROVE_DEMO": "true",
        "KALMAGROVE_MAX_RUNNING": "4",
        "KALMAGROVE_MAX_WAITING": "4",
        "KALMAGROVE_CLIENT_KEYS_FILE": str(directory / "client.keys"),
        "KALMAGROVE_ADMIN_KEYS_FILE": str(directory / "admin.keys"),
    }
    with (
        process(settings, directory / "log", START_SECONDS) as (_, url),
        scraping(url.removeprefix("http://"), directory / "client.key", directory) as prometheus,
    ):
        asyncio.run(load(url, client_key, admin_key, LOAD_SECONDS))
        going_on = threading.Thread(target=lambda: asyncio.run(load(url, client_key, admin_key, 10)))
        going_on.start()
        yield prometheus
        going_on.join()


def _key(directory: Path, role: str) -> str:
    """A new one; its file and its keys file."""
    key = secrets.token_urlsafe()
    (directory / f"{role}.key").write_text(key)
    (directory / f"{role}.keys").write_text(f"test:{hash_key(key).hex()}\n")
    return key


def test_every_expression_has_data(watched: Prometheus) -> None:
    silent = []
    for one in asked():
        if one.promql.startswith("absent(") or (one.of_vllm and ENGINE != "vllm"):
            continue
        if not any(map(math.isfinite, watched.ask(one.promql))):
            silent.append(one)
    assert silent == []


def test_rules_are_evaluated_without_errors(watched: Prometheus) -> None:
    rules = watched.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    states = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
    assert states["KalmaGroveDown"] == states["KalmaGroveNotReady"] == "inactive"
    assert states["KalmaGroveOverloaded"] == "pending", "the load is more than this server takes"


def test_dashboards_can_be_drawn(watched: Prometheus, tmp_path: Path) -> None:
    out = Path(os.environ.get("KALMAGROVE_PICTURES") or tmp_path)
    pictures = draw(watched.url, out, LOAD_SECONDS)
    assert len(pictures) == len(list(DIRECTORY.glob("*.json"))) == 4
    assert all(picture.stat().st_size > 20_000 for picture in pictures)
