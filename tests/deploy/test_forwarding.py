"""deploy/proxy forwards what the server serves: all of it that is for clients, and nothing else."""

from __future__ import annotations

import re

import pytest

from tests.deploy.expressions import ROOT
from tests.server.support import Service

UNDOCUMENTED = ("/v2/rerank", "/console", "/console/console.js")
PROXY = ROOT / "deploy" / "proxy"


def _locations(server: str) -> list[tuple[bool, str]]:
    """(exact, path) of what is forwarded."""
    found = re.findall(r"location (= )?(/\S+) \{ proxy_pass", server)
    return [(bool(exact), path) for exact, path in found]


def _forwarded(path: str, server: str) -> bool:
    return any(path == known if exact else path.startswith(known) for exact, known in _locations(server))


def _servers(name: str) -> list[str]:
    return (PROXY / name).read_text("utf-8").split("\nserver {")[1:]


@pytest.mark.parametrize(
    ("name", "place", "left_out"),
    [
        ("kalmagrove.conf", 0, "/admin/ /metrics /console"),
        ("replicas.conf", 0, "/admin/ /metrics /console"),
        ("replicas.conf", 1, "/metrics /health"),
    ],
)
async def test_what_is_not_forwarded_is_left_out_on_purpose(
    service: Service, name: str, place: int, left_out: str
) -> None:
    paths = {*service.app.openapi()["paths"], *UNDOCUMENTED}
    server = _servers(name)[place]
    hidden = {path for path in paths if not _forwarded(path.replace("{", "").replace("}", ""), server)}
    assert hidden == {path for path in paths if path.startswith(tuple(left_out.split()))}
