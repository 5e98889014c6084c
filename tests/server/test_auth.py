"""Keys: every route is covered, the two roles are apart, and nothing of a key is ever written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import ValidationError

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.auth import OPEN_PATHS
from server.http.keys import KeyFileError, KeyRing, Keys, hash_key
from server.logs import formatter
from server.settings import Settings
from tests.server.support import Service, build_services, chat_body, error, running

CLIENT, ADMIN = "kg-client-secret", "kg-admin-secret"


def write_keys(path: Path, **keys: str) -> Path:
    lines = ["# owners", "", *(f"{name}:{hash_key(key).hex()}" for name, key in keys.items())]
    path.write_text("\n".join(lines))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(
    tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder
) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("auth")
    client = write_keys(directory / "client", other="kg-other", ann=CLIENT)
    admin = write_keys(directory / "admin", root=ADMIN)
    services = build_services(directory, tiny, encoder, Keys.read(client, admin))
    async with running(services, base_url="http://example.org") as service:
        yield service


def every_route(service: Service) -> list[tuple[str, str]]:
    document = service.app.openapi()
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_route_needs_a_key_of_its_role(locked: Service) -> None:
    routes = every_route(locked)
    assert len(routes) > 18
    for method, template in [
        *routes,
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("GET", "/admin"),
        ("PUT", "/admin//kb"),
    ]:
        path = template.replace("{id}", "x").replace("{model}", "tiny")
        if path in OPEN_PATHS:
            assert (await locked.http.request(method, path)).status_code == 200
            continue
        for headers in ({}, bearer("wrong"), {"Authorization": f"Basic {CLIENT}"}, {"Authorization": "Bearer "}):
            response = await locked.http.request(method, path, headers=headers)
            assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key"), path
            assert response.headers["www-authenticate"] == "Bearer"
        if path == "/metrics":
            continue
        is_admin = path.startswith("/admin")
        foreign = await locked.http.request(method, path, headers=bearer(CLIENT if is_admin else ADMIN))
        assert (foreign.status_code, error(foreign)["code"]) == (403, "forbidden"), path
        own = await locked.http.request(method, path, headers=bearer(ADMIN if is_admin else CLIENT))
        assert own.status_code not in (401, 403), path


@pytest.mark.asyncio(loop_scope="module")
async def test_metrics_take_either_key(locked: Service) -> None:
    for key in (CLIENT, ADMIN):
        assert (await locked.http.get("/metrics", headers=bearer(key))).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_keys_are_never_logged_but_their_owners_are(locked: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await locked.http.post("/v1/chat/completions", json=chat_body(), headers=bearer(CLIENT))
    await locked.http.get("/admin/kb/version", headers=bearer("kg-guessed-secret"))
    await locked.http.get(f"/v1/models/tiny?key={CLIENT}", headers=bearer(CLIENT))
    form = formatter("text")
    own = [form.format(record) for record in caplog.records if not record.name.startswith("httpx")]
    assert any("key_name=ann" in message for message in own)
    assert not any("secret" in message for message in own)


async def test_one_file_does_not_open_the_other_role(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    keys = Keys.read(write_keys(tmp_path / "client", ann=CLIENT), None)
    async with running(build_services(tmp_path, tiny, encoder, keys)) as service:
        for headers, status in (({}, 401), (bearer(CLIENT), 403)):
            assert (await service.http.get("/admin/kb/version", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost", None, 200),
        ("127.0.0.1:8000", None, 200),
        ("[::1]:8000", None, 200),
        ("localhost:8000", "http://localhost:3000", 200),
        ("evil.example", None, 403),
        ("localhost.evil.example", None, 403),
        ("localhost", "https://evil.example", 403),
        ("localhost", "null", 403),
        ("", None, 403),
        ("[", None, 403),
        ("localhost", "http://[", 403),
    ],
)
async def test_without_keys_only_this_machine_is_served(
    service: Service, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    assert (await service.http.get("/v1/models", headers=headers)).status_code == status


def test_key_files_name_the_line_and_not_the_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for text, problem in ((f"ann:{CLIENT}", "line 1"), ("# nothing", "holds no key"), ("\nann", "line 2")):
        path.write_text(text)
        with pytest.raises(KeyFileError, match=problem) as caught:
            KeyRing.read(path)
        assert CLIENT not in str(caught.value)
    with pytest.raises(KeyFileError, match="cannot be read"):
        KeyRing.read(tmp_path / "absent")


async def until(status: int, service: Service, key: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while (await service.http.get("/v1/models", headers=bearer(key))).status_code != status:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def logged(text: str, caplog: pytest.LogCaptureFixture, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while text not in caplog.text:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_keys_follow_their_file(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is taken out of the file opens nothing; a damaged file changes nothing and is named."""
    path = write_keys(tmp_path / "client", ann="kg-ann", bob="kg-bob")
    async with running(build_services(tmp_path, tiny, encoder, Keys.read(path, None))) as service:
        await until(200, service, "kg-ann")
        write_keys(path, bob="kg-bob")
        await until(401, service, "kg-ann")
        path.write_text("# none\nnonsense")
        await logged("line 2", caplog)
        assert str(path) in caplog.text
        await until(200, service, "kg-bob")
        path.unlink()
        await logged("cannot be read", caplog)
        await until(200, service, "kg-bob")
        write_keys(tmp_path / "new", ann="kg-ann").rename(path)
        await until(200, service, "kg-ann")
        await until(401, service, "kg-bob")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_without_keys_only_loopback_may_be_bound(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="loopback"):
        Settings(host=host)
    Settings(host=host, client_keys_file=tmp_path / "client")


def test_loopback_hosts_need_no_keys() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        Settings(host=host)


def test_unknown_settings_name_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALMAGROVE_MAX_WAITNG", "5")
    with pytest.raises(ValidationError, match="KALMAGROVE_MAX_WAITNG"):
        Settings()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALMAGROVE_TOP_K", "3")
    monkeypatch.setenv("KALMAGROVE_URL", "http://localhost:8000")  # the command line's, not the server's
    assert Settings().top_k == 3
    monkeypatch.setenv("KALMAGROVE_TOP_K", "many")
    with pytest.raises(ValidationError, match="top_k"):
        Settings()
