"""The end of a server: bounded in all, however many listeners have clients that do not read."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
import yaml

from server import outlet
from server.http import listening, tracing
from server.http.listening import Companion, DrainingServer
from server.services import Context
from server.settings import Settings
from tests.deploy.expressions import ROOT


def test_a_drain_ends_within_the_grace_that_deploy_gives() -> None:
    parting = listening.PARTING_SECONDS + listening.FLUSH_SECONDS + tracing.PARTING_SECONDS + outlet.PARTING_SECONDS
    longest = Settings().drain_timeout_s + parting
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    for name in ("server", "replica-1", "replica-2", "replica-3"):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > longest, name
    pod = (ROOT / "deploy/helm/kalmagrove/templates/statefulset.yaml").read_text("utf-8")
    (beyond,) = re.findall(r"add \.Values\.preStopSeconds \.Values\.drainTimeoutSeconds (\d+)", pod)
    assert int(beyond) > parting


class _Own:
    """A connection of the first listener."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def shutdown(self) -> None:
        self._said.append("own")


class _Beside:
    """A second listener, whose clients take so long."""

    def __init__(self, seconds: float, said: list[str]) -> None:
        self._seconds = seconds
        self._said = said

    async def end(self) -> None:
        self._said.append("beside")
        await asyncio.sleep(self._seconds)


@pytest.mark.parametrize(("seconds", "left"), [(0.0, 1), (0.6, 0)])
async def test_clients_of_both_listeners_have_the_same_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, left: int
) -> None:
    monkeypatch.setattr(listening, "FLUSH_SECONDS", 1)
    said: list[str] = []
    config = uvicorn.Config("no:app", log_config=None)
    server = DrainingServer(config, cast(Context, SimpleNamespace()), lambda: None)
    server.server_state.connections.add(cast(Any, _Own(said)))
    await server._end_beside(cast(Companion, _Beside(seconds, said)))
    assert said == ["own", "beside"]
    assert config.timeout_graceful_shutdown == left
