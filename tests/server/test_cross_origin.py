"""Web pages of other addresses: only those that the settings name, and never at /admin."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.keys import Keys
from server.settings import Settings
from tests.server.support import build_services, chat_body, running

CHAT = "/v1/chat/completions"
PAGE = "https://app.example"
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


async def test_a_page_that_is_named(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    services = build_services(tmp_path, tiny, encoder)
    async with running(services, cors_origins=f"{PAGE}, http://localhost:3000") as service:
        preflight = await service.http.options(CHAT, headers={"Origin": PAGE, **ASKED})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert "x-request-id" in preflight.headers
        answer = await service.http.post(CHAT, json=chat_body(), headers={"Origin": PAGE})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        refused = await service.http.post(CHAT, json={}, headers={"Origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, PAGE)
        other = {"Origin": "https://elsewhere.example"}
        assert (
            "access-control-allow-origin" not in (await service.http.options(CHAT, headers={**other, **ASKED})).headers
        )
        assert (await service.http.post(CHAT, json=chat_body(), headers=other)).status_code == 403
        for response in (
            await service.http.options("/admin/kb/facts", headers={"Origin": PAGE, **ASKED}),
            await service.http.get("/admin/kb/version", headers={"Origin": PAGE}),
        ):
            assert "access-control-allow-origin" not in response.headers
            assert response.status_code in (403, 405)


async def test_with_keys_a_preflight_needs_none(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    keys = tmp_path / "client.keys"
    keys.write_text(f"alice:{'0' * 64}\n")
    services = build_services(tmp_path, tiny, encoder, Keys.read(keys, None))
    async with running(services, cors_origins="*", client_keys_file=keys) as service:
        assert (await service.http.options(CHAT, headers={"Origin": PAGE, **ASKED})).status_code == 200
        refused = await service.http.post(CHAT, json=chat_body(), headers={"Origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "*"


async def test_nobody_unless_named(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    async with running(build_services(tmp_path, tiny, encoder)) as service:
        response = await service.http.options(CHAT, headers={"Origin": "http://localhost:3000", **ASKED})
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origins", ["*", "app.example", "https://app.example/", "https://App.example", "null"])
def test_what_is_no_origin(origins: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=origins)
