"""The load tests' client before servers that do not keep the connections they promise to keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests.client import ServerClient, Target, connect
from loadtests.peers.launch import PEERS
from loadtests.refusals import RequestError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nKeep-Alive: timeout=5, max=100\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = (
    b'data: {"choices": [{"delta": {"content": "yes"}}]}\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n',
    b"data: [DONE]\n\n",
)


class Forgetful:
    """An HTTP server that closes every connection after its first stream, though not before it was asked again: so
    whoever asks again on it always loses, not only in a race."""

    def __init__(self) -> None:
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        streamed = False
        while (head := await _head(reader)) and not streamed:
            streamed = head.startswith(b"POST")
            parts = ANSWER if streamed else (b'{"data": [{"id": "stub"}]}',)
            writer.write(HEAD % (b"text/event-stream" if streamed else b"application/json"))
            for part in parts:
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Of the next request, whose body is read as well; empty once the client has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    sizes = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    await reader.readexactly(int(sizes[0]) if sizes else 0)
    return head


@asynccontextmanager
async def _client(keeps_connections: bool) -> AsyncIterator[tuple[Forgetful, ServerClient]]:
    forgetful = Forgetful()
    server = await asyncio.start_server(forgetful.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, connect(Target(url, keeps_connections=keeps_connections), connections=4) as client:
        yield forgetful, client


async def _ask(client: ServerClient) -> str:
    return (await client.ask([{"role": "user", "content": "Well?"}], None, 1)).text


async def test_a_connection_that_is_used_again_is_lost() -> None:
    async with _client(keeps_connections=True) as (_, client):
        assert await _ask(client) == "yes"
        with pytest.raises(RequestError, match="Server disconnected"):
            await _ask(client)


async def test_each_request_has_a_connection_of_its_own() -> None:
    async with _client(keeps_connections=False) as (forgetful, client):
        assert [await _ask(client) for _ in range(5)] == ["yes"] * 5
        assert await asyncio.gather(*(_ask(client) for _ in range(8))) == ["yes"] * 8
        assert forgetful.connections == 1 + 5 + 8  # one asked for the model's name


def test_llama_server_is_asked_so() -> None:
    kept = {peer.name: peer.keeps_connections for peer in PEERS}
    assert kept == {name: not name.startswith("llama-server") for name in kept}
