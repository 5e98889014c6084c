"""Compressed bodies: what is in them, within the bounds of plain ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.encoding import PART_BYTES, DecodeBody
from server.http.errors import ApiError
from server.settings import Settings
from tests.server.support import Service, build_services, chat_body, error, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMIT = 3 * PART_BYTES


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(
    tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder
) -> AsyncIterator[Service]:
    directory: Path = tmp_path_factory.mktemp("encoding")
    async with running(build_services(directory, tiny, encoder), max_body_bytes=LIMIT) as service:
        yield service


async def unpacked(parts: list[bytes], limit: int = LIMIT) -> bytes:
    """What an app reads of a gzip body that comes in these parts."""
    coming = iter(parts)
    left = len(parts)

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(coming), "more_body": left > 0}

    read = b""

    async def app(scope: Scope, receive: object, send: object) -> None:
        nonlocal read
        assert all(name not in (b"content-encoding", b"content-length") for name, _ in scope["headers"])
        more = True
        while more:
            message = await receive()  # type: ignore[operator]
            assert len(message["body"]) <= PART_BYTES
            read += message["body"]
            more = message["more_body"]

    headers = [(b"content-encoding", b"gzip"), (b"content-length", b"1")]
    scope = {"type": "http", "path": "/v1/completions", "headers": headers}
    await DecodeBody(app, Settings(max_body_bytes=limit))(scope, receive, None)  # type: ignore[arg-type]
    return read


@given(st.binary(max_size=300), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3000))
async def test_whatever_its_parts(data: bytes, size: int, members: int, times: int) -> None:
    body = gzip.compress(data * times) * members
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    if len(data) * times * members <= LIMIT:
        assert await unpacked(parts) == data * times * members
        assert await unpacked([body, b""]) == data * times * members


async def test_a_bomb_is_found_out_part_by_part() -> None:
    with pytest.raises(ApiError) as refused:
        await unpacked([gzip.compress(bytes(10**8))])
    assert refused.value.code == "body_too_large"


@given(st.data())
async def test_damaged_ones_are_refused(data: st.DataObject) -> None:
    whole = gzip.compress(b"something that is said " * 9)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for body in (whole[:cut], whole + b"behind it"):
        with pytest.raises(ApiError) as refused:
            await unpacked([body])
        assert (refused.value.status_code, refused.value.code) == (400, "invalid_encoding")


async def test_a_request_that_comes_compressed(small: Service) -> None:
    body = json.dumps(chat_body(knowledge={"enabled": False})).encode()
    kind = {"Content-Type": "application/json"}
    plain = await small.http.post("/v1/chat/completions", content=body, headers=kind)
    for coding in ("gzip", "x-gzip", "GZIP"):
        packed = gzip.compress(body)
        same = await small.http.post(
            "/v1/chat/completions", content=packed, headers={**kind, "Content-Encoding": coding}
        )
        assert same.status_code == 200, same.text
        assert same.json()["choices"] == plain.json()["choices"]
    identity = await small.http.post(
        "/v1/chat/completions", content=body, headers={**kind, "Content-Encoding": "identity"}
    )
    assert identity.status_code == 200


async def test_refusals(small: Service) -> None:
    kind = {"Content-Type": "application/json"}
    for coding, content, status, code in (
        ("br", b"x", 415, "unsupported_encoding"),
        ("gzip, gzip", b"x", 415, "unsupported_encoding"),
        ("gzip", b"x", 400, "invalid_encoding"),
        ("gzip", gzip.compress(b" " * (LIMIT + 1)), 413, "body_too_large"),
    ):
        headers = {**kind, "Content-Encoding": coding}
        response = await small.http.post("/v1/chat/completions", content=content, headers=headers)
        assert (response.status_code, error(response)["code"]) == (status, code)
        assert ("accept-encoding" in response.headers) == (status == 415)
