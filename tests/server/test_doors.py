"""/admin and /metrics on a listener of their own, and TLS on both."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from pydantic import ValidationError
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from loadtests.serving import free_port
from server.cli import app
from server.http.app import create_admin_app
from server.http.keys import KeyFile, Keys, hash_key
from server.settings import Settings
from tests.server.live import process, start
from tests.server.support import FACTS, Service, build_services, chat_body, error, events, running
from tests.server.test_process import environment

__all__ = ["environment"]
PROBES = ("/health", "/ready")
PUBLIC = (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/tokenize"))
ADMIN = (("GET", "/metrics"), ("GET", "/admin/kb/version"), ("GET", "/admin/kb/facts/ceo"), ("PUT", "/admin/kb/facts"))


@pytest.fixture
async def apart(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """The public door, and a client of the other; without the console, unless a test asks for it."""
    paths = {}
    for role in ("client", "admin"):
        paths[role] = tmp_path / f"{role}.keys"
        paths[role].write_text(f"{role}:{hash_key(f'kg-{role}').hex()}\n")
    keys = Keys(**{role: KeyFile(path) for role, path in paths.items()})
    console = bool(getattr(request, "param", False))
    async with running(build_services(tmp_path, tiny, encoder, keys), admin_port=0, console=console) as service:
        transport = httpx.ASGITransport(create_admin_app(service.context))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as admin:
            yield service, admin


def bearer(role: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer kg-{role}"} if role else {}


@pytest.mark.parametrize("role", [None, "client", "admin"])
async def test_what_the_other_door_serves_does_not_exist(
    apart: tuple[Service, httpx.AsyncClient], role: str | None
) -> None:
    service, admin = apart
    for door, calls in ((service.http, ADMIN), (admin, PUBLIC)):
        for method, path in calls:
            response = await door.request(method, path, headers=bearer(role))
            assert (response.status_code, error(response)["code"]) == (404, "not_found"), path
            assert response.headers["x-request-id"]


async def test_each_door_serves_its_own_with_its_own_keys(apart: tuple[Service, httpx.AsyncClient]) -> None:
    service, admin = apart
    facts = {"facts": [{"id": id, "text": text} for id, text in FACTS.items()]}
    assert (await admin.put("/admin/kb/facts", json=facts)).status_code == 401
    assert (await admin.put("/admin/kb/facts", json=facts, headers=bearer("client"))).status_code == 403
    assert (await admin.put("/admin/kb/facts", json=facts, headers=bearer("admin"))).json()["version"] == 1
    answer = await service.http.post("/v1/chat/completions", json=chat_body(), headers=bearer("client"))
    assert answer.json()["knowledge"]["facts"][0]["id"] == "ceo"
    measured = (await admin.get("/metrics", headers=bearer("client"))).text
    assert 'route="/v1/chat/completions",status="200"} 1.0' in measured
    for path in PROBES:
        assert (await service.http.get(path)).status_code == (await admin.get(path)).status_code == 200


async def test_each_door_documents_its_own(apart: tuple[Service, httpx.AsyncClient]) -> None:
    service, admin = apart
    public = (await service.http.get("/openapi.json", headers=bearer("client"))).json()["paths"]
    own = (await admin.get("/openapi.json", headers=bearer("client"))).json()["paths"]
    assert "/v1/models" in public
    assert "/admin/kb/facts" in own
    assert set(public) & set(own) == set(PROBES)


with_console = pytest.mark.parametrize("apart", [True], indirect=True, ids=["console"])


@with_console
async def test_the_console_is_where_admin_is_and_asks_there(apart: tuple[Service, httpx.AsyncClient]) -> None:
    """One address for all that the page calls, with the keys that each call needs anywhere; the public one lacks it."""
    _, admin = apart
    page = await admin.get("/console")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "access-control-allow-origin" not in page.headers
    assert (await admin.get("/console/app/main.js")).status_code == 200
    facts = {"facts": [{"id": id, "text": text} for id, text in FACTS.items()]}
    assert (await admin.put("/admin/kb/facts", json=facts, headers=bearer("admin"))).status_code == 200
    for role, status in ((None, 401), ("admin", 403), ("client", 200)):
        assert (await admin.get("/v1/models", headers=bearer(role))).status_code == status
    answer = await admin.post("/v1/chat/completions", json=chat_body(stream=True), headers=bearer("client"))
    assert events(answer)[-1]["knowledge"]["facts"][0]["id"] == "ceo"
    assert (await admin.get("/admin/kb/version", headers=bearer("client"))).status_code == 403


@with_console
@pytest.mark.parametrize("role", [None, "client", "admin"])
async def test_the_console_opens_nothing_at_the_public_door(
    apart: tuple[Service, httpx.AsyncClient], role: str | None
) -> None:
    service, _ = apart
    for method, path in (*ADMIN, ("GET", "/console"), ("GET", "/console/app/main.js")):
        response = await service.http.request(method, path, headers=bearer(role))
        assert (response.status_code, error(response)["code"]) == (404, "not_found"), path


async def test_both_are_told_of_a_drain(apart: tuple[Service, httpx.AsyncClient]) -> None:
    service, admin = apart
    service.context.lifecycle.draining = True
    refused = await admin.get("/admin/kb/version", headers=bearer("admin"))
    assert (refused.status_code, error(refused)["code"]) == (503, "server_draining")
    assert (await admin.get("/ready")).status_code == 503
    assert (await admin.get("/metrics", headers=bearer("client"))).status_code == 200


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, with its key in the same file; the authority's is beside it, and so is another for later."""
    authority, path = trustme.CA(), tmp_path / "server.pem"
    for one in (path, tmp_path / "later.pem"):
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(one))
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return path


@pytest.mark.slow
def test_two_listeners_with_tls_in_one_process(environment: dict[str, str], tmp_path: Path, certificate: Path) -> None:
    """The command line works on them; a drain lets a stream end, and refuses at both what is new."""
    port, log, authority = free_port(), tmp_path / "log", tmp_path / "authority.pem"
    trusting = ssl.create_default_context(cafile=str(authority))
    apart = {"KALMAGROVE_ADMIN_PORT": str(port), "KALMAGROVE_SSL_CERTFILE": str(certificate)}
    with (
        process({**environment, **apart}, log, verify=trusting) as (child, url),
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusting, timeout=30) as admin,
        httpx.Client(base_url=url, verify=trusting, timeout=30) as public,
    ):
        assert url.startswith("https://")
        assert public.get("/metrics").status_code == public.get("/admin/kb/version").status_code == 404
        cli = {"KALMAGROVE_ADMIN_URL": str(admin.base_url), "KALMAGROVE_URL": url, "SSL_CERT_FILE": str(authority)}
        added = CliRunner().invoke(app, ["kb", "add", FACTS["ceo"], "--id", "ceo"], env=cli)
        assert added.exit_code == 0, added.output
        bench = ["bench", "recency", "--server", url, "--count", "3", "--facts", "16"]
        measured = CliRunner().invoke(app, bench, env=cli)
        assert measured.exit_code == 0, measured.output
        body = chat_body(max_tokens=800, stream=True)
        _renewed(child, certificate, (urlsplit(url).port or 0, port), trusting, log)
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(public.post("/v1/chat/completions", json=body)))
        asking.start()
        while "kalmagrove_requests_running 1.0" not in admin.get("/metrics").text:
            assert asking.is_alive()
        child.send_signal(signal.SIGTERM)
        while (ready := admin.get("/ready")).status_code == 200:
            assert asking.is_alive()
        refused = admin.get("/admin/kb/version")
        assert (ready.status_code, refused.json()["error"]["code"]) == (503, "server_draining")
        asking.join(30)
        assert events(answers[0])[-1]["choices"][0]["finish_reason"] == "length"
        assert child.wait(15) == 0
    said = log.read_text()
    assert f"/admin and /metrics are at https://127.0.0.1:{port}" in said
    assert f"in a browser: https://127.0.0.1:{port}/console" in said
    assert "Traceback" not in said


def _renewed(
    child: subprocess.Popen[bytes], certificate: Path, ports: tuple[int, int], trusting: ssl.SSLContext, log: Path
) -> None:
    """SIGHUP: both listeners show the new certificate; after one that is damaged, still that."""

    def shown(port: int) -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            return str((connection.getpeercert() or {})["serialNumber"])

    (before,) = {shown(port) for port in ports}
    certificate.write_bytes(certificate.with_name("later.pem").read_bytes())
    child.send_signal(signal.SIGHUP)
    while before in {shown(port) for port in ports}:
        assert child.poll() is None
    (after,) = {shown(port) for port in ports}
    certificate.write_bytes(b"damaged")
    child.send_signal(signal.SIGHUP)
    while "no usable certificate" not in log.read_text():
        assert child.poll() is None
    assert {shown(port) for port in ports} == {after}


def test_an_admin_port_that_is_taken_is_told_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        child = start({**environment, "KALMAGROVE_ADMIN_PORT": str(port)}, log)
        assert child.wait(60) == 1
    (line,) = log.read_text().splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"admin_host": "127.0.0.2"}, "admin_host"),
        ({"port": 8000, "admin_port": 8000}, "admin_port"),
        ({"host": "localhost", "port": 8000, "admin_host": "127.0.0.1", "admin_port": 8000}, "admin_port"),
        ({"admin_port": 8001, "admin_host": "0.0.0.0"}, "0.0.0.0"),
        ({"ssl_keyfile": "key.pem"}, "ssl_keyfile"),
    ],
)
def test_refused_settings(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings(**settings)
